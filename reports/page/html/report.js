"use strict";
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = (id) => JSON.parse(one(`#${id}`).textContent);
  const words = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  /* Tables */

  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  // Numbers before words, what is empty behind both; the sign turns all but the empty ones around.
  function compare(a, b, sign) {
    if (a.empty || b.empty) return a.empty - b.empty;
    if (a.number !== null && b.number !== null) return sign * (a.number - b.number);
    if (a.number !== null || b.number !== null) return sign * (a.number === null ? 1 : -1);
    return sign * collator.compare(a.text, b.text);
  }

  function key(row, column) {
    const cell = row.cells[column];
    const text = cell ? cell.textContent.trim() : "";
    const number = cell && cell.dataset.value !== undefined ? Number(cell.dataset.value) : null;
    return { text, number, empty: number === null && (text === "" || text === "–") };
  }

  function sort(bodies, column, direction) {
    for (const { body, rows } of bodies) {
      let ordered = rows;
      if (direction !== "none") {
        const sign = direction === "ascending" ? 1 : -1;
        const keys = new Map(rows.map((row) => [row, key(row, column)]));
        ordered = [...rows].sort((a, b) => compare(keys.get(a), keys.get(b), sign));
      }
      body.append(...ordered);
    }
  }

  function table(figure) {
    const [search, output, tools] = ["input", "output", ".tools"].map((s) => one(s, figure));
    const heads = all("th[data-column]", figure);
    const bodies = [...one("table", figure).tBodies].map((body) => ({ body, rows: [...body.rows] }));
    const rows = bodies.flatMap((block) => block.rows);
    let texts = null;
    let order = "";

    function tell() {
      const shown = rows.filter((row) => !row.hidden).length;
      output.value = `${shown} of ${rows.length} rows${order}`;
    }

    search.addEventListener("input", () => {
      texts ??= rows.map((row) => row.textContent.toLowerCase());
      const wanted = words(search);
      rows.forEach((row, k) => (row.hidden = !wanted.every((word) => texts[k].includes(word))));
      tell();
    });

    const next = { none: "ascending", ascending: "descending", descending: "none" };
    for (const head of heads) {
      const name = head.textContent.trim();
      const button = make("button", { type: "button", className: "sort" }, name);
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const direction = next[head.getAttribute("aria-sort")];
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", direction);
        sort(bodies, Number(head.dataset.column), direction);
        order = direction === "none" ? "" : `, ${direction} by ${name}`;
        tell();
      });
    }
    one(".hint", figure).hidden = !one("td a", figure);
    tools.hidden = false;
    tell();
  }

  /* Runs */

  function fold(title, text, open) {
    const pre = make("pre", { tabIndex: 0, textContent: text || "Not known." });
    pre.setAttribute("role", "region");
    pre.setAttribute("aria-label", title);
    return make("details", { open }, make("summary", { textContent: title }), pre);
  }

  function runs() {
    const list = all("details.run");
    if (!list.length) return;
    const [search, button, output] = ["words", "all", "text"].map((name) => one(`#runs-${name}`));
    const texts = list.map((run) => run.textContent.toLowerCase());
    let details = null;
    let chosen = null;

    function fill(run, alone) {
      if (run.dataset.filled) return;
      run.dataset.filled = "yes";
      details ??= data("run-data");
      const { hash8, provenance, log } = details.runs[Number(run.id.slice("run-".length))];
      run.append(fold("Configuration", details.configs[hash8], alone));
      run.append(fold("Provenance", provenance, alone));
      run.append(fold("Log", log, alone));
    }

    function show() {
      const wanted = words(search);
      list.forEach((run, k) => {
        const found = wanted.every((word) => texts[k].includes(word));
        run.hidden = !found || (chosen !== null && !chosen.has(k));
      });
      const shown = list.filter((run) => !run.hidden).length;
      output.value = `${shown} of ${list.length} runs`;
      button.hidden = chosen === null;
    }

    function choose(numbers) {
      chosen = numbers;
      search.value = "";
      show();
      if (!numbers) return;
      const found = list.filter((run) => !run.hidden);
      for (const run of found) {
        fill(run, found.length === 1);
        run.open = true;
      }
      one("#runs").scrollIntoView();
      if (found.length) one("summary", found[0]).focus({ preventScroll: true });
    }

    function route() {
      const match = /^#runs?[=-](\d+(?:,\d+)*)$/.exec(location.hash);
      if (match) choose(new Set(match[1].split(",").map(Number)));
      else if (location.hash === "#runs") choose(null);
    }

    one("#runs").addEventListener(
      "toggle",
      ({ target }) => target.open && target.matches(".run") && fill(target, false),
      true,
    );
    for (const link of all("a[data-runs]")) link.hash = `runs=${link.dataset.runs}`;
    search.addEventListener("input", show);
    button.addEventListener("click", () => (location.hash = "runs"));
    addEventListener("hashchange", route);
    one("#runs .tools").hidden = false;
    show();
    route();
  }

  /* Masks over training */

  function masks() {
    const range = one("#moment");
    if (!range) return;
    const { moments, strips } = data("mask-data");
    const rows = all("img.strip").map((image) => ({ image, note: one("small", image.closest("tr")) }));
    const seeds = rows.map(({ note }) => note.lastChild.textContent.split(", ").pop());
    const [play, output] = [one("#play"), one("#moment-text")];
    let timer = null;

    function show() {
      const share = moments[Number(range.value)];
      const distance = (frame) => Math.abs(frame.share - share);
      const frames = strips.map((all) => all.reduce((a, b) => (distance(b) < distance(a) ? b : a)));
      frames.forEach((frame, k) => {
        const { image, note } = rows[k];
        image.src = frame.src;
        image.alt = frame.alt;
        note.replaceChildren(frame.when, make("br"), `${frame.hidden}, ${seeds[k]}`);
      });
      const same = frames.every((frame) => frame.when === frames[0].when);
      output.value = `${share}% of training` + (same ? `: ${frames[0].when}` : "");
      range.setAttribute("aria-valuetext", output.value);
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    }

    function step() {
      range.value = Number(range.value) + 1;
      show();
      if (range.value === range.max) stop();
    }

    play.addEventListener("click", () => {
      if (timer) return stop();
      if (range.value === range.max) { range.value = 0; show(); }
      play.textContent = "Pause";
      timer = setInterval(step, 700);
    });
    range.addEventListener("input", () => (stop(), show()));
    one(".moment").hidden = false;
    show();
  }

  /* Pictures and colours */

  function pictures() {
    const viewer = one("#viewer");
    one("#viewer-close").addEventListener("click", () => viewer.close());
    viewer.addEventListener("click", ({ target }) => target === viewer && viewer.close());
    viewer.addEventListener("close", () => one("img", viewer).remove());
    for (const image of all(".picture img")) {
      const button = make("button", { type: "button", className: "enlarge" });
      const title = one("figcaption", image.closest("figure")).textContent;
      button.title = `Enlarge: ${title}`;
      image.replaceWith(button);
      button.append(image);
      button.addEventListener("click", () => {
        viewer.append(image.cloneNode());
        viewer.showModal();
      });
    }
  }

  function theme() {
    const button = one("#theme");
    const root = document.documentElement;
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
    const tell = () => button.setAttribute("aria-pressed", isDark());
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      tell();
    });
    dark.addEventListener("change", tell);
    button.hidden = false;
    tell();
  }

  theme();
  all("figure.table").forEach(table);
  pictures();
  masks();
  runs();
})();
