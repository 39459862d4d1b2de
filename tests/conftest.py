from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors on a busy machine: a second thread makes tests several times slower."""
    torch.set_num_threads(1)
