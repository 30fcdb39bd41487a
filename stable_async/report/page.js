"use strict";

// Everything that comes from the job goes into the page as text, never as HTML.

const facts = JSON.parse(document.getElementById("facts").textContent);
const rows = readRows();
const byId = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat(undefined, { notation: "compact" });
const money = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const STATES = ["done", "filtered", "failed"];
const kind = facts.kind;
const decided = STATES.reduce((sum, state) => sum + facts.counts[state], 0);

function readRows() {
  const element = document.getElementById("rows");
  let text = null;
  let more = {};
  const read = JSON.parse(element.textContent).map((values) => {
    const row = Object.fromEntries(facts.columns.map((name, index) => [name, values[index]]));
    // 0 repeats the value of the previous row.
    text = row.text = row.text === 0 ? text : row.text;
    more = row.more = row.more === 0 ? more : row.more;
    return row;
  });
  element.remove();
  return read;
}

// `1 image`, `2 images`.
function count(number) {
  return `${whole.format(number)} ${number === 1 ? kind.one : kind.many}`;
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element[name] = value;
  element.append(...children);
  return element;
}

function drawHead() {
  const { counts } = facts;
  document.title = `${facts.title} · stable-async`;
  byId("title").textContent = facts.title;
  const { left, gone, replaced } = counts;
  const when = new Date(facts.written * 1000).toLocaleString();
  byId("summary").textContent = [
    facts.sandbox && `Made by the sandbox: nothing was paid.`,
    left && `${whole.format(left)} of ${count(left + decided)} still to be made.`,
    gone && `${whole.format(gone)} of these ${whole.format(decided)} were no longer in the prompt file of the last run.`,
    replaced && `Spending and requests include what was replaced: ${whole.format(replaced)}.`,
    facts.assumed.length && `Assumed, because no source states it: the price of ${facts.assumed.join(", ")}.`,
    `Written ${when}.`,
  ].filter(Boolean).join(" ");
  const dollars = (credits) => money.format(credits * facts.dollars_per_credit);
  const figures = [
    ["done", counts.done],
    ["filtered", counts.filtered, counts.filtered && "warn"],
    ["failed", counts.failed, counts.failed && "bad"],
    ["credits spent", facts.credits, "", `${dollars(facts.credits)} US dollars`],
    ["requests", facts.requests],
    ["429 answers", facts.rate_limited, facts.rate_limited && "bad"],
    ["in doubt", counts.in_doubt, counts.in_doubt && "warn", facts.credits_in_doubt && `${short.format(facts.credits_in_doubt)} credits`],
  ];
  for (const [name, value, tone, note] of figures) {
    byId("figures").append(
      make("div", { className: tone || "" }, make("dt", {}, name), make("dd", {}, short.format(value)), note ? make("small", {}, note) : ""),
    );
  }
}

function table(heads, lines) {
  const head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name)));
  const body = lines.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell))));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

function labelled(text, note, share, bad) {
  const line = make("i");
  line.style.width = `${Math.max(share * 100, 1)}%`;
  const cell = document.createDocumentFragment();
  cell.append(make("bdi", {}, text), note ? make("small", {}, ` ${note}`) : "", make("meter-bar", { className: bad ? "bad-bar" : "" }, line));
  return cell;
}

function drawTables() {
  const total = facts.spending.reduce((sum, [, , , credits]) => sum + (credits || 0), 0) || 1;
  const doubts = facts.spending.some(([, , , , doubt]) => doubt);
  byId("spending").append(
    facts.spending.length
      ? table(
          ["service", kind.many, "credits", ...(doubts ? ["in doubt"] : [])],
          facts.spending.map(([service, model, made, credits, doubt]) => [
            labelled(service, model, (credits || 0) / total),
            whole.format(made),
            credits === null ? "unknown" : short.format(credits) + (facts.assumed.includes(service) ? " (assumed)" : ""),
            ...(doubts ? [short.format(doubt || 0)] : []),
          ]),
        )
      : make("p", { className: "none" }, "Nothing yet."),
  );
  const most = Math.max(...facts.failures.map(([, count]) => count), 1);
  byId("failures").append(
    facts.failures.length
      ? table(
          ["reason", "rows"],
          facts.failures.map(([reason, count]) => [
            labelled(reason || "unknown", "", count / most, true),
            whole.format(count),
          ]),
        )
      : make("p", { className: "none" }, "None."),
  );
}

// The timeline: requests in the window that ends at each moment, pauses between runs cut out.

function svg(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function drawTimeline() {
  const { runs, ceiling, window: seconds } = facts;
  const points = runs.flatMap((run) => run.points);
  const peak = Math.max(...points, 0);
  byId("timeline-text").textContent = points.length
    ? `At most ${whole.format(peak)} request${peak === 1 ? "" : "s"} in ${seconds} s; the quota is ${ceiling}. ` +
      `${whole.format(facts.rate_limited)} answers were 429.`
    : "The times of the requests are not known.";
  byId("timeline").querySelector(".plot").hidden = !points.length;
  if (!points.length) return;
  const plot = byId("timeline").querySelector("svg");
  // With few requests, a scale up to the quota would flatten the curve.
  const top = (peak < ceiling / 4 ? peak : Math.max(peak, ceiling)) * 1.12;
  new ResizeObserver(() => plotRuns(plot, points.length, top)).observe(plot);
  plot.addEventListener("pointermove", (event) => readOut(plot, event, points.length));
  plot.addEventListener("pointerleave", () => readOut(plot, null));
}

const LABEL = 84;
const MARGIN = { left: 34, right: 4, top: 8, bottom: 22 };

function plotRuns(plot, count, top) {
  const { width, height } = plot.getBoundingClientRect();
  const { runs, ceiling } = facts;
  const bottom = height - MARGIN.bottom;
  const gap = runs.length > 1 ? 10 : 0;
  const scale = (width - MARGIN.left - MARGIN.right - gap * (runs.length - 1)) / Math.max(count - runs.length, 1);
  const y = (value) => bottom - (value / top) * (bottom - MARGIN.top);
  plot.replaceChildren();
  for (const value of marks(top)) {
    plot.append(svg("text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, compact.format(value)));
  }
  plot.append(svg("line", { class: "axis", x1: MARGIN.left, x2: width, y1: bottom, y2: bottom }));
  let x = MARGIN.left;
  let labelEnd = 0;
  plot.spans = [];
  for (const run of runs) {
    const places = run.points.map((value, index) => `${(x + index * scale).toFixed(1)},${y(value).toFixed(1)}`);
    const end = x + (run.points.length - 1) * scale;
    plot.append(svg("path", { class: "area", d: `M${x},${bottom}L${places.join("L")}L${end},${bottom}Z` }));
    plot.append(svg("path", { class: "curve", d: `M${places.join("L")}` }));
    run.limited.forEach((value, index) => {
      if (value) plot.append(svg("circle", { class: "limited", cx: x + index * scale, cy: MARGIN.top + 2, r: 3 }));
    });
    if (x >= labelEnd && x < width - 2 * LABEL) {
      plot.append(svg("text", { x, y: height - 6 }, clock(run.start)));
      labelEnd = x + LABEL;
    }
    plot.spans.push({ run, start: x, scale });
    x = end + gap;
  }
  const { start, step, points } = runs.at(-1);
  const last = clock(start + (points.length - 1) * step);
  plot.append(svg("text", { x: width, y: height - 6, "text-anchor": "end" }, last));
  if (ceiling <= top) {
    plot.append(svg("line", { class: "ceiling", x1: MARGIN.left, x2: width, y1: y(ceiling), y2: y(ceiling) }));
    plot.append(svg("text", { class: "quota", x: width - 2, y: y(ceiling) - 4, "text-anchor": "end" }, `quota ${ceiling}`));
  }
  plot.append(svg("line", { class: "cursor", y1: MARGIN.top, y2: bottom, visibility: "hidden" }));
}

// Round values up to `top`: 1, 2 or 5 times a power of ten apart, and no more than five of them.
function marks(top) {
  const power = 10 ** Math.floor(Math.log10(top / 5));
  const step = Math.max(1, [1, 2, 5, 10].map((times) => times * power).find((size) => top / size <= 5));
  return Array.from({ length: Math.floor(top / step) + 1 }, (_, index) => index * step);
}

function clock(second) {
  return new Date(second * 1000).toLocaleTimeString();
}

function readOut(plot, event) {
  const output = byId("timeline").querySelector("output");
  const cursor = plot.querySelector(".cursor");
  const x = event && event.clientX - plot.getBoundingClientRect().left;
  const span = event && plot.spans.findLast(({ start }) => start <= x);
  const index = span ? Math.round((x - span.start) / span.scale) : -1;
  const known = span && index < span.run.points.length;
  cursor.setAttribute("visibility", known ? "visible" : "hidden");
  if (!known) {
    output.textContent = "";
    return;
  }
  cursor.setAttribute("x1", x);
  cursor.setAttribute("x2", x);
  const limited = span.run.limited[index];
  output.textContent =
    `${clock(span.run.start + index * span.run.step)}: ${span.run.points[index]} in ${facts.window} s` +
    (limited ? `, ${limited} × 429` : "");
}

// The contact sheet: only visible tiles exist.

const sheet = byId("sheet");
const GAP = 14;
const CAPTION = 66;
const SCREENS_AHEAD = 1;
// Milliseconds without scrolling before an image is fetched.
const REST = 80;
const PAGE = 4;
let found = rows;
let shape = { columns: 1, side: 100, height: 100 };
let tiles = new Map();
let current = 0;
let resting = 0;

function measure() {
  const width = sheet.clientWidth;
  const columns = Math.max(2, Math.floor((width + GAP) / (width < 700 ? 150 : 200)));
  const side = (width - GAP * (columns - 1)) / columns;
  shape = { columns, side, height: side + CAPTION + GAP };
  sheet.style.height = `${Math.ceil(found.length / columns) * shape.height}px`;
  const held = sheet.contains(document.activeElement);
  sheet.replaceChildren();
  tiles = new Map();
  draw();
  if (held) tiles.get(current)?.focus({ preventScroll: true });
}

function draw() {
  const top = -sheet.getBoundingClientRect().top;
  const ahead = innerHeight * SCREENS_AHEAD;
  const first = Math.max(0, Math.floor((top - ahead) / shape.height)) * shape.columns;
  const last = Math.min(found.length, Math.ceil((top + innerHeight + ahead) / shape.height) * shape.columns);
  for (const [index, tile] of tiles) {
    if ((index < first || index >= last) && index !== current) {
      tile.remove();
      tiles.delete(index);
    }
  }
  for (let index = first; index < last; index++) addTile(index);
  // The Tab key moves to this tile, visible or not.
  if (current < found.length) addTile(current);
  clearTimeout(resting);
  resting = setTimeout(fetchImages, REST);
}

function addTile(index) {
  if (tiles.has(index)) return;
  const row = found[index];
  const frame = make("span", { className: "frame" });
  frame.style.height = `${shape.side}px`;
  if (row.state === "failed") frame.append(make("span", { className: "why", dir: "auto" }, row.error || "failed"));
  else if (row.thumbnail) frame.append(imageOf(row.thumbnail));
  else if (kind.column !== "image") frame.append(make("span", { className: "sign" }, kind.column === "audio" ? "♪" : "◈"));
  if (group.has(row)) frame.append(make("span", { className: "mark alike" }, "looks alike"));
  if (row.state === "filtered") frame.append(make("span", { className: "mark" }, "filtered"));
  const tile = make(
    "button",
    { type: "button", className: "tile", role: "option" },
    frame,
    make("span", { className: "text", dir: "auto" }, row.text || row.id),
    make("span", { className: "meta" }, [row.service, row.seed === null ? "" : `seed ${row.seed}`].filter(Boolean).join(" · ")),
  );
  tile.setAttribute("aria-setsize", found.length);
  tile.setAttribute("aria-posinset", index + 1);
  tile.dataset.index = index;
  tile.style.width = `${shape.side}px`;
  const column = index % shape.columns;
  const line = Math.floor(index / shape.columns);
  tile.style.transform = `translate(${column * (shape.side + GAP)}px, ${line * shape.height}px)`;
  mark(tile);
  tiles.set(index, tile);
  sheet.append(tile);
}

function mark(tile) {
  const chosen = Number(tile.dataset.index) === current;
  tile.tabIndex = chosen ? 0 : -1;
  tile.setAttribute("aria-selected", chosen);
}

function choose(index) {
  const before = tiles.get(current);
  current = index;
  for (const tile of [before, tiles.get(index)]) if (tile) mark(tile);
}

function imageOf(source) {
  return make("img", { loading: "lazy", decoding: "async", alt: "", src: source });
}

function fetchImages() {
  for (const [index, tile] of tiles) {
    const row = found[index];
    const frame = tile.firstChild;
    if (kind.column === "image" && row.file && row.state !== "failed" && !frame.querySelector("img")) frame.prepend(imageOf(row.file));
  }
}

function moveTo(index) {
  choose(Math.min(Math.max(index, 0), found.length - 1));
  const top = Math.floor(current / shape.columns) * shape.height;
  const start = sheet.getBoundingClientRect().top + scrollY + top;
  const bar = byId("filter").offsetHeight;
  if (start - bar < scrollY) scrollTo(0, start - bar - GAP);
  else if (start + shape.height > scrollY + innerHeight) scrollTo(0, start + shape.height - innerHeight);
  draw();
  tiles.get(current).focus({ preventScroll: true });
}

function step(key) {
  const { columns } = shape;
  const steps = {
    ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
    PageUp: -columns * PAGE, PageDown: columns * PAGE, Home: -found.length, End: found.length,
  };
  return steps[key];
}

// Groups of the same and of near duplicates: each later one names the first.

function groups() {
  const found = new Map();
  rows.forEach((row) => {
    if (row.alike === null || row.alike === undefined) return;
    const first = rows[row.alike];
    found.set(first, first);
    found.set(row, first);
  });
  return found;
}

const group = groups();

function drawAlike() {
  if (!group.size) return;
  const several = new Set(group.values()).size;
  byId("alike").hidden = false;
  byId("alike-text").append(
    `${count(group.size)} in ${whole.format(several)} group${several === 1 ? "" : "s"}. `,
    make("label", {}, make("input", { type: "checkbox", id: "only-alike" }), " Show these only, side by side"),
  );
  byId("only-alike").addEventListener("change", filter);
}

// The filter.

function drawFilter() {
  const services = [...new Set(rows.map((row) => row.service))].sort();
  for (const service of services) byId("service").append(make("option", { value: service }, service));
  byId("service").hidden = services.length < 2;
  for (const state of STATES) {
    const count = rows.filter((row) => row.state === state).length;
    if (!count) continue;
    const input = make("input", { type: "checkbox", name: "state", value: state, defaultChecked: true });
    byId("states").append(make("label", {}, input, make("span", {}, `${state} ${whole.format(count)}`)));
  }
}

function haystack(row) {
  row.words ??= [row.id, row.text, row.seed, row.error, ...Object.values(row.more)].join("\n").toLowerCase();
  return row.words;
}

function filter() {
  const words = byId("query").value.toLowerCase().split(/\s+/).filter(Boolean);
  const service = byId("service").value;
  const states = new Set([...document.querySelectorAll("[name=state]:checked")].map((input) => input.value));
  const onlyAlike = byId("only-alike")?.checked;
  found = rows.filter(
    (row) =>
      (!onlyAlike || group.has(row)) &&
      states.has(row.state) &&
      (!service || row.service === service) &&
      words.every((word) => haystack(row).includes(word)),
  );
  if (onlyAlike) {
    const place = new Map(rows.map((row, index) => [row, index]));
    found.sort((a, b) => place.get(group.get(a)) - place.get(group.get(b)) || place.get(a) - place.get(b));
  }
  current = 0;
  byId("nothing").hidden = found.length > 0;
  const beyond = decided - rows.length;
  byId("found").textContent =
    (found.length === rows.length ? whole.format(rows.length) : `${whole.format(found.length)} of ${whole.format(rows.length)}`) +
    (beyond > 0 ? `, the first of ${whole.format(decided)}` : "");
  measure();
}

// One result.

const viewer = byId("viewer");
let shown = 0;

function show(index) {
  shown = index;
  const row = found[index];
  const image = byId("viewer-image");
  const isImage = kind.column === "image";
  const audio = byId("viewer-audio");
  audio.pause();
  image.hidden = !row.file || !isImage;
  image.src = row.file || "";
  if (image.hidden) image.removeAttribute("src");
  audio.hidden = !row.file || kind.column !== "audio";
  if (audio.hidden) audio.removeAttribute("src");
  else audio.src = row.file;
  image.alt = row.text || "";
  byId("viewer-blank").hidden = Boolean(row.file) && kind.column !== "model";
  byId("viewer-blank").textContent = row.error || (row.file ? "Open the file to see it." : "The file is not in the job's folder.");
  byId("viewer-text").textContent = row.text || row.id;
  const lines = {
    id: row.id,
    service: row.service,
    ...row.more,
    seed: row.seed,
    size: row.width && `${row.width} × ${row.height}`,
    credits: row.credits,
    status: row.state,
    error: row.error,
  };
  byId("viewer-facts").replaceChildren(
    ...Object.entries(lines)
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .flatMap(([name, value]) => [make("dt", {}, name), make("dd", { dir: "auto" }, String(value))]),
  );
  byId("viewer-link").parentElement.hidden = !row.file;
  byId("viewer-link").href = row.file || "";
  byId("place").textContent = `${whole.format(index + 1)} of ${whole.format(found.length)}`;
  byId("previous").disabled = index === 0;
  byId("next").disabled = index === found.length - 1;
  const opening = !viewer.open;
  if (opening) viewer.showModal();
  // A disabled or hidden element would lose the focus to the page behind.
  if (opening || document.activeElement.matches(":disabled, [hidden] *")) viewer.focus();
}

function turn(by) {
  const index = shown + by;
  if (index >= 0 && index < found.length) show(index);
}

// On paper: the first tiles, as images that are loaded when the page is printed.

const PRINTED = 60;

function printSheet() {
  byId("print-sheet").replaceChildren(
    ...found.slice(0, PRINTED).map((row) =>
      make(
        "figure",
        {},
        row.thumbnail ? make("img", { src: row.thumbnail, alt: "" }) : make("span", { className: "blank" }, row.error || kind.one),
        make("figcaption", {}, row.text || row.id),
      ),
    ),
    found.length > PRINTED ? make("p", {}, `The first ${PRINTED} of ${count(found.length)}.`) : "",
  );
}

addEventListener("beforeprint", printSheet);
addEventListener("afterprint", () => byId("print-sheet").replaceChildren());

byId("sheet-title").textContent = kind.many[0].toUpperCase() + kind.many.slice(1);
drawHead();
drawAlike();
drawTables();
drawTimeline();
drawFilter();
filter();

addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
new ResizeObserver(() => requestAnimationFrame(measure)).observe(document.querySelector("main"));
byId("filter").addEventListener("input", filter);
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("reset").addEventListener("click", () => {
  byId("filter").reset();
  if (byId("only-alike")) byId("only-alike").checked = false;
  filter();
});
sheet.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (tile) show(Number(tile.dataset.index));
});
sheet.addEventListener("keydown", (event) => {
  const by = step(event.key);
  if (by === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  moveTo(current + by);
});
sheet.addEventListener("focusin", (event) => {
  const tile = event.target.closest(".tile");
  if (tile) choose(Number(tile.dataset.index));
});
viewer.addEventListener("close", () => {
  byId("viewer-audio").pause();
  moveTo(shown);
});
viewer.addEventListener("click", (event) => {
  if (event.target === viewer) viewer.close();
});
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
byId("close").addEventListener("click", () => viewer.close());
addEventListener("keydown", (event) => {
  if (viewer.open) {
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  } else if (event.key === "/" && document.activeElement !== byId("query")) {
    event.preventDefault();
    byId("query").focus();
  }
});
