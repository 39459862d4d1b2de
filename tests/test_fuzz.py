"""Random command lines: each runs one step, or costs one sentence before anything is trained.

The usual 18 lines are always the same. ``MASKBENCH_FUZZ=300 MASKBENCH_FUZZ_SEED=1`` draws others.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import hypothesis
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from PIL import Image

from benchmark import encoders
from benchmark.batchnorm import RULES
from benchmark.config import GROUPS, compose
from benchmark.foreign import FORMATS
from benchmark.instantiate import target
from benchmark.run import main

CONF = Path(encoders.__file__).parent / "conf"
LINES = int(os.environ.get("MASKBENCH_FUZZ", "18"))
SEED = os.environ.get("MASKBENCH_FUZZ_SEED")
LONGEST = 90  # seconds of a line, which takes one as a rule
MEMORY = 8 * 2**30  # bytes that a line may ask for: more is refused, not served by swapping

# One step on 16 images, by the smallest nets there are.
ROOT = ("preset=smoke", "batch_size=16", "controls=[]", "device=cpu")
DATA = {
    "scenes": ("data.train_count=16", "data.test_count=8"),
    "folder": ("data.train=FILES/good", "data.test=FILES/good"),
}
ENCODER = {
    "resnet18": ("encoder.width=8", "encoder.stem=small"),
    "vit_tiny": ("++encoder.args.depth=1",),
    "timm": ("encoder.name=test_resnet",),
}
OBJECTIVE = {
    "simclr": ("objective.hidden_dim=16",),
    "byol": ("objective.hidden_dim=16", "objective.predictor_dim=16"),
    "simsiam": ("objective.hidden_dim=16", "objective.predictor_dim=16"),
}
TASKS = {
    "linear": ("tasks.linear.epochs=1",),
    "finetune": ("tasks.finetune.epochs=1",),
    "knn": ("tasks.knn.k=3",),
    "clustering": ("tasks.clustering.starts=1",),
    "low_shot": (),
    "robustness": ("tasks.robustness.probe.epochs=1",),
    "segmentation": ("tasks.segmentation.epochs=1",),
    "mask_quality": (),
}

# Strings among which a key of the root chooses; those of a plugin stand in its signature.
CHOICES = {
    "fill": ("zero", "mean", "blur", "noise"),
    "update": ("alternating", "low_memory", "simultaneous"),
    "turns.first": ("encoder", "mask"),
    "turns.encoder_mode": ("train", "eval"),
    "batchnorm": tuple(RULES),
    "precision": ("fp32", "bf16", "auto"),
    "encoder_optimiser.name": ("sgd", "lars", "adam"),
    "mask_optimiser.name": ("sgd", "lars", "adam"),
    "mask_net.norm": ("instance", "group", "batch", "none"),
    "schedule.per": ("epoch", "step"),
    "device": ("auto", "cpu"),
    "trainer.branches": ("auto", "loop", "batch"),
    "trainer.compile": ("auto", "off"),  # compiling takes minutes
    "residence": ("auto", "device", "host"),
}
# With these a valid line would train or evaluate for years: it is planned only.
ENDLESS = re.compile(r"epochs|pflops|starts|max_iterations|folds|max_crop")

# fmt: off
NUMBERS = (
    "0", "-1", "1", "2", "3", "5", "0.5", "-0.5", "1.0", "1e-30", "1e30", "1e400", "1000000000",
    "9223372036854775808", "nan", "inf", "-inf", "1_000", "0x10", "１",
)
OTHERS = (
    "null", "true", "false", "abc", "none", "''", "[]", "[1]", "[a,b]", "[1,2]", "[2,1]",
    "[0.1,0.2]", "[[1]]", "[null]", "{}", "{a:1}", "{start:0.1,end:0.4}", "{start:0,end:2}",
    "{start:0.5}", "{start:.1,end:.3,begin:.9,until:.1}", "{start:a,end:b}",
    "{start:.1,end:.2,curve:square}", "{_target_:methods.none.NoMask}", "${seed}", "${nowhere}",
    "${oc.env:NOWHERE}", "???", "é", "a=b", "a:b", "*", "interval(0,1)", "range(1,3)",
    "choice(1,2)", "1,2", "shuffle(1,2)", "tag(a,b)", "glob(*)", "sort(3,1)", "int(2)", "float(x)",
    "str(1)", "'", '"', "[", "]", "{", "}", "(", "\\", ",", "=", "$", "${", "'a b'", '"a\nb"',
    "a b", "'é'", "'\udcff'", "", " ", "\udcff", "\u2028", "\x1b[31m", "nowhere/file",
    "/proc/nowhere", "/dev/null",
)
TARGETS = (
    "methods.none.NoMask", "methods.nothing.X", "torch.nn.Identity", "builtins.dict", "nowhere",
    "benchmark", "benchmark.scenes.load", "benchmark.objectives.SimCLR", "tasks.knn.KNN",
    "benchmark.encoders.ResNet",
)
FOLDERS = ("broken", "flat", "few", "empty", "classes", "nowhere", "good/cat/0.png")
CHECKPOINTS = (
    "empty.pt", "random.pt", "random.safetensors", "malicious.pt", "zipped.pt", "misshapen.pt",
    "list.pt", "truncated.pt", "resnet18.pt", "resnet18.pt", "good", "nowhere",
)
# fmt: on
# Words of libraries in which no user thinks.
JARGON = re.compile(
    "OmegaConf|omegaconf|DictConfig|ListConfig|NoneType|object at 0x|[a-z]Error|"
    "Exception|mismatched input|no viable|extraneous input|token recognition|expecting|"
    "unhashable|iterable|subscriptable|attribute|operand|unpack|index out of"
)


class TooLongError(BaseException):
    """Nothing that catches exceptions may catch it."""


class Leaf(NamedTuple):
    """A key's value, and the strings among which it chooses."""

    value: Any
    options: tuple[str, ...]


Keys = dict[str, Leaf]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lines may name: folders of images and checkpoints, good and broken."""
    files = tmp_path_factory.mktemp("files")
    for name in ("good/cat", "good/dog", "broken/cat", "broken/dog", "flat", "few/cat"):
        (files / name).mkdir(parents=True)
        for i in range(1 if name.startswith("few") else 8):
            Image.new("RGB", (32, 32), (i, 20 * i, 99)).save(files / name / f"{i}.png")
    (files / "broken/dog/3.png").write_bytes((files / "good/dog/3.png").read_bytes()[:50])
    (files / "empty").mkdir()
    (files / "classes/cat").mkdir(parents=True)
    (files / "empty.pt").touch()
    (files / "random.pt").write_bytes(bytes(range(256)) * 9)
    (files / "random.safetensors").write_bytes(bytes(range(256)) * 9)
    (files / "malicious.pt").write_bytes(pickle.dumps(_Malicious(files / "executed")))
    torch.save({"malicious": _Malicious(files / "executed")}, files / "zipped.pt")
    torch.save({"conv1.weight": torch.zeros(2, 2)}, files / "misshapen.pt")
    torch.save([1, "two"], files / "list.pt")
    torch.save(encoders.ResNet(18, 8, "small", 1).state_dict(), files / "resnet18.pt")
    whole = (files / "resnet18.pt").read_bytes()
    (files / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    return files


class _Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@cache
def leaves(group: str, choice: str) -> Keys:
    """Every key of a group's option, or of the root, with its value; nodes are keys too."""
    cfg = compose(["preset=smoke", *setting(group, choice)])
    if not group:
        return _walk(cfg, "", without=(*GROUPS, "tasks", "hydra"))
    return _walk(cfg[group], f"{group}.")


@cache
def task_leaves(task: str) -> Keys:
    return _walk(compose(["preset=smoke", *TASKS[task]]).tasks[task], f"tasks.{task}.")


def setting(group: str, choice: str) -> list[str]:
    """The overrides that choose an option, as small as it gets."""
    small = {"data": DATA, "encoder": ENCODER, "objective": OBJECTIVE}.get(group, {})
    return [f"{group}={choice}", *small.get(choice, ())] if group else []


def _walk(node: DictConfig, prefix: str, without: Sequence[str] = ()) -> Keys:
    hints = _hints(node) if "_target_" in node else {}
    found: Keys = {}
    for name in (name for name in map(str, node) if name not in without):
        key, hint = prefix + name, hints.get(name)
        options = {str(o) for part in (hint, *get_args(hint)) for o in _literals(part)}
        found[key] = Leaf(node[name], CHOICES.get(key, tuple(sorted(options))))
        if isinstance(node[name], DictConfig):
            found |= _walk(node[name], f"{key}.")
    return found


def _literals(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()


def _hints(node: DictConfig) -> dict[str, Any]:
    plugin = target({"_target_": node._target_})
    return get_type_hints(plugin.__init__ if inspect.isclass(plugin) else plugin)


def likely(key: str, leaf: Leaf) -> st.SearchStrategy[str]:
    """Values near the one that a key has, of its type."""
    value = leaf.value
    if leaf.options:
        return st.sampled_from(leaf.options)
    if isinstance(value, bool):
        return st.sampled_from(["true", "false"])
    if isinstance(value, int):
        return st.sampled_from([value, 1, 2, value + 1, max(value - 1, 0)]).map(str)
    if key.endswith(("ratio", "budget")) and not isinstance(value, DictConfig):
        return st.sampled_from(["0.3", "{start:0.1,end:0.4}", "{start:.2,end:.1,curve:cosine}"])
    if isinstance(value, float):
        numbers = st.floats(0, 2 * value + 0.01, allow_subnormal=False)
        return st.one_of(st.just(value / 2), numbers).map(str)
    if isinstance(value, DictConfig):
        return st.sampled_from(["null", "{}"])
    return st.just("null" if value is None else str(value).replace(" ", ""))


def unlikely(key: str) -> st.SearchStrategy[str]:
    """Values that may well be none of the key's."""
    if key.endswith("_target_"):
        return st.sampled_from(TARGETS)
    text = st.text(st.characters(exclude_characters="\0/."), max_size=4)
    return st.one_of(
        st.sampled_from(NUMBERS),
        st.sampled_from(NUMBERS),
        st.sampled_from(OTHERS),
        st.integers(-5, 50).map(str),
        st.floats(width=32).map(str),
        text,
    )


@st.composite
def misspelt(draw: st.DrawFn, word: str) -> str:
    at = draw(st.integers(0, len(word) - 1))
    return word[:at] + draw(st.sampled_from(["", "x", word[at] * 2, "."])) + word[at + 1 :]


@st.composite
def override(draw: st.DrawFn, keys: Keys, *, wild: bool) -> str:
    """One override of a setting that has these keys."""
    key = draw(st.sampled_from(sorted(keys)))
    sane = f"{key}={draw(likely(key, keys[key]))}"
    if not wild:
        return sane
    other = draw(unlikely(key))
    kind = draw(st.integers(0, 15))
    if kind < 8:
        return f"{key}={other}"
    group = draw(st.sampled_from(GROUPS))
    task = draw(st.sampled_from(sorted(TASKS)))
    return (
        f"{draw(misspelt(key))}={other}",
        f"~{key}",
        f"~{key}={other}",
        draw(st.sampled_from(["+", "++"])) + key + draw(st.sampled_from(["", ".new", "x"])) + "=1",
        draw(st.sampled_from([f"{group}={other}", f"~{group}", f"{group}@{key}={other}"])),
        draw(st.sampled_from([f"task={task},", f"task=[{task},{other}]", f"tasks.{task}={other}"])),
        f"+data@tasks.{task}.data={draw(st.sampled_from(['digits', 'scenes', 'cifar10', 'x']))}",
        draw(st.text(st.characters(exclude_characters="\0/"), max_size=8)),
    )[kind - 8]


@st.composite
def from_files(draw: st.DrawFn) -> list[str]:
    """Overrides that read a file or folder."""
    name = draw(st.sampled_from(CHECKPOINTS))
    format = draw(st.sampled_from([*FORMATS, "torchvision", "pickle", "null"]))
    return [f"checkpoint=FILES/{name}", f"format={format}"]


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A small setting, and up to six overrides that may break it."""
    method = draw(st.sampled_from(sorted(p.stem for p in (CONF / "method").glob("*.yaml"))))
    objective = draw(st.sampled_from(sorted(OBJECTIVE)))
    encoder = draw(st.sampled_from(["resnet18", "resnet18", *sorted(ENCODER)]))
    data = draw(st.sampled_from(["scenes", "scenes", "scenes", "folder"]))
    task = draw(st.sampled_from([*[None] * len(TASKS), *sorted(TASKS)]))
    checkpoint = draw(st.sampled_from([None] * 9 + [from_files()]))
    if checkpoint is not None:
        method, encoder, task = "none", "resnet18", draw(st.sampled_from(["knn", "linear"]))
    wild = draw(st.booleans())
    groups = {"method": method, "objective": objective, "encoder": encoder, "data": data}
    base = [part for group, choice in groups.items() for part in setting(group, choice)]
    base += [*ROOT, f"task=[{task or ''}]", *TASKS.get(task, ())]
    keys = [leaves(group, choice) for group, choice in ({"": ""} | groups).items()]
    keys += [task_leaves(task)] if task else []
    if not wild:
        keys = [{k: v for k, v in some.items() if not k.endswith("_target_")} for some in keys]
    several = draw(st.integers(0, 9)) == 0
    changes = list(draw(checkpoint)) if checkpoint is not None else []
    for _ in range(draw(st.integers(1, 6))):
        some = draw(st.sampled_from([some for some in keys if some]))
        changes.append(draw(override(some, wild=wild and draw(st.booleans()))))
    if data == "folder" and wild:
        name = draw(st.sampled_from(FOLDERS))
        changes.append(f"data.{draw(st.sampled_from(['train', 'test']))}=FILES/{name}")
    if several:
        changes.append(draw(st.sampled_from(["seed=0,1", "fill=zero,mean", "seed=0,x", "seed=1,"])))
    if any(ENDLESS.search(change) for change in changes):
        base.append("dry_run=true")
    flag = [draw(st.sampled_from(["-m", "-m", "--multirun", ""]))] if several else []
    flag = [f for f in flag if f] or draw(st.sampled_from([[]] * 20 + [["-m"], ["--x"], ["-q"]]))
    return [*flag, *base, *changes]


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """A line that takes too long, or too much memory, ends in an exception."""

    def stop(*_: object) -> None:
        raise TooLongError

    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    if not torch.cuda.is_available():  # CUDA reserves more addresses than there is memory
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(line: list[str], folder: Path) -> tuple[int | None, str, str]:
    """Exit status of a line, None for an exception, and what it wrote to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    environment, threads = dict(os.environ), torch.get_num_threads()
    try:
        with contextlib.chdir(folder), limited():
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                with warnings.catch_warnings(record=True) as warned:
                    status = main(line)
    except (Exception, SystemExit, TooLongError):
        return None, out.getvalue(), traceback.format_exc()
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
    noise = [str(warning.message) for warning in warned] if status == 2 else []
    return status, out.getvalue(), err.getvalue() + "".join(f"{words}\n" for words in noise)


def fault(line: list[str], folder: Path, status: int | None, out: str, err: str) -> str | None:
    """What is wrong with the end of a line; None if it is one of the good ones."""
    written = [p for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts]
    if any(".part" in p.name for p in folder.rglob("*")):
        return f"half-written files: {written}"
    if status is None:
        return "an exception"
    if "Traceback" in out + err:
        return "a traceback"
    if status == 2:
        if not re.fullmatch(r"error: [^\n]*\w[^\n]*\n", err) or len(err.splitlines()) > 1:
            return "not one sentence"
        if jargon := JARGON.search(re.sub(r"(cannot be read|timm refuses).*\(.*", "", err)):
            return f"a library's words: {jargon[0]}"
        return f"written before the error: {written}" if written else None
    if status == 1 and re.search(r"loss is (nan|inf)|finite", out):
        return None
    if status != 0:
        return f"exit status {status}"
    encoders_written = [p for p in written if p.name == "encoder.safetensors"]
    if not encoders_written:
        dry = any(part.lstrip("+").startswith("dry_run=") for part in line)
        return None if dry and not written else f"no encoder but {written}"
    for file in encoders_written:
        cfg = yaml.safe_load((file.parent / "config.yaml").read_text())
        if cfg["control"] in ("untrained", "checkpoint") or not cfg["epochs"]:
            continue
        if not [json.loads(x) for x in (file.parent / "metrics.jsonl").read_text().splitlines()]:
            return "no metrics"
    return None


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("method=adios objective=byol objective.hidden_dim=16 objective.predictor_dim=16", 0, ""),
        ("dry_run=true -m seed=0", 0, ""),
        ("--x", 2, "unrecognized arguments: --x; --help lists the flags"),
        ("method=é", 2, "'method=é' cannot be read; write KEY=VALUE, with quotes"),
        ("seed=0,", 2, "'seed=0,' cannot be read"),
        ("method='a\nb'", 2, "method=a\\nb is unknown; choose one of"),
        ("runs_dir='\udcff'", 2, "runs_dir='\\udcff' is not UTF-8"),
        ("method=random method.image_size=64", 2, "method.image_size=64 differs from the 32 pix"),
        ("method=random method.num_masks=1000000000", 2, "num_masks=1000000000 must be at most"),
        ("method=superpixel method.slic_iterations=1000000000", 2, "must be at most 1000"),
        ("augment.blur_sigma={a:1}", 2, "augment.blur_sigma: Cannot merge a mapping with a list"),
        ("hydra/launcher=slrum", 2, "launcher"),
        ("threads=1000000000", 2, "threads=1000000000 must be at most 1024"),
        ("encoder=timm encoder.name=test_resnet encoder.args=null", 2, "must be a mapping"),
        ("task=[linear,{a:1}]", 2, "task={'a': 1} is not one of linear,"),
        ("task=robustness tasks.robustness.occlusion=[a]", 2, "occlusion="),
    ],
)
def test_main__lines_that_once_went_wrong(
    line: str, status: int, message: str, tmp_path: Path
) -> None:
    encoder = () if "encoder=" in line else setting("encoder", "resnet18")
    task = () if "task=" in line else ("task=[]",)
    parts = [*setting("data", "scenes"), *encoder, *task, *ROOT, *line.split(" ")]
    end, out, err = outcome(parts, tmp_path)
    assert (end, fault(parts, tmp_path, end, out, err)) == (status, None), out + err
    assert message in err


# Composing a configuration while a line is drawn imports plugins, whose libraries use the module.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_main__random_lines_run_or_cost_one_sentence(
    files: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ends: Counter[int | None] = Counter()

    def check(line: list[str]) -> None:
        folder = tmp_path_factory.mktemp("line")
        status, out, err = outcome([part.replace("FILES", str(files)) for part in line], folder)
        problem = fault(line, folder, status, out, err)
        assert problem is None, f"{problem}: {line}\n{out[-2000:]}\n{err[-4000:]}"
        assert not (files / "executed").exists(), line
        ends[status] += 1
        shutil.rmtree(folder)

    chosen = settings(
        max_examples=LINES,
        derandomize=SEED is None,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    property_of_lines = chosen(hypothesis.given(lines())(check))
    if SEED is not None:
        property_of_lines = hypothesis.seed(int(SEED))(property_of_lines)
    property_of_lines()
    assert ends[0]
    assert ends[2]
