// Draws the page: model, devices' looks, compressed axis, one section a space, then the page's own parts.
//
// No library, nothing fetched, and what comes from the log becomes a text node or an attribute's value, never markup.
// Charts are drawn once; a move shows and hides boxes and shifts the cursor. All movement goes through go(), which asks
// for one paint() a frame. Next: page.py, which documents the data.
"use strict";
const $ = id => document.getElementById(id), root = document.documentElement;
addEventListener("error", e => {
  root.dataset.state = "failed";
  $("fault").hidden = false;
  $("fault").textContent = `This page could not be drawn: ${e.message} (line ${e.lineno})`;
});

// ---- Small tools.
function dress(node, props, kids) {
  for (const key in props) if (props[key] != null) node.setAttribute(key, props[key]);
  node.append(...kids.filter(kid => kid != null));
  return node;
}
const tag = (name, props, ...kids) => dress(document.createElement(name), props, kids);
const svg = (name, props, ...kids) => dress(document.createElementNS("http://www.w3.org/2000/svg", name), props, kids);
const on = (target, types, act) => types.split(" ").forEach(type => target.addEventListener(type, act));
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const order = (p, q) => (p < q ? -1 : p > q ? 1 : 0);
const most = (numbers, least) => numbers.reduce((a, b) => Math.max(a, b), least);  // a call takes only so many
const stamp = time => time.replace("T", " ");
const endings = (count, word) => (count == 1 ? "" : word.endsWith("s") ? "es" : "s");
const spelled = count => count.toLocaleString("en", count < 1e6 ? {} : { notation: "compact", compactDisplay: "long" });
const plural = (count, word) => `${spelled(count)} ${word}${endings(count, word)}`;
function cut(text, length) {
  const letters = [...text];
  return letters.length > length ? letters.slice(0, Math.max(1, length - 1)).join("") + "…" : text;
}

// ---- The model. Addresses are BigInt; revisions become indexes into `moments`; at `end` a range is free again.
const data = JSON.parse($("document").textContent), moments = data.moments, last = moments.length - 1;
const indexes = new Map(moments.map((m, i) => [m.revision, i]));
const before = revision => moments.filter(m => m.revision < revision).length - 1;
const place = revision => indexes.get(revision) ?? clamp(before(revision), 0, last);
const holdings = data.holdings.map((raw, i) => ({ ...raw, i, lo: BigInt(raw.first), hi: BigInt(raw.last),
  start: place(raw.from), end: raw.to == null ? moments.length : place(raw.to) }));
const alike = length => moments.every(m => m.time.slice(0, length) == moments[0].time.slice(0, length));
const face = !alike(10) ? [5, 16] : alike(16) ? [11, 23] : [11, 19];  // of a time, what tells the moments apart
const clock = m => stamp(m.time.slice(...face));
const KINDS = { pio: ["port I/O", "port"], mmio: ["memory-mapped I/O"], mem: ["guest memory"],
  mac: ["MAC addresses", "address"], legacy_irq: ["legacy interrupts", "line"],
  msi_irq: ["message-signalled interrupts", "vector"], kvm_mem_slot: ["KVM memory slots", "slot"] };

function hex(value, space) {
  const digits = value.toString(16);
  return space == "mac" ? digits.padStart(12, "0").match(/../g).join(":") : `0x${digits}`;
}
function bounds(r) {
  const both = write => (r.lo == r.hi ? write(r.lo) : `${write(r.lo)}–${write(r.hi)}`);
  return both(value => hex(value, r.space)) + (/irq|slot/.test(r.space) ? ` (${both(String)})` : "");
}
function amount(size, space) {
  if (KINDS[space]?.[1]) return plural(size, KINDS[space][1]);
  const power = clamp(Math.floor((size.toString(2).length - 1) / 10), 0, 6);
  return `${+(Number(size) / 1024 ** power).toFixed(1)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][power]}`;
}
const words = h => `${h.device}, ${h.space} ${bounds(h)}, from revision ${h.from} `
  + (h.to == null ? "on" : `until revision ${h.to}`);

// ---- A device's colour comes from its name, or is the next free one, in the log's own order; so looks stay as the log
// grows. The second ten devices have a texture, and after sixty the looks are used again.
const looks = new Map(), taken = new Set();
function look(device) {
  if (looks.has(device)) return looks.get(device);
  const round = Math.floor(looks.size / 10) % 6;
  let slot = 2166136261;
  for (const c of device) slot = Math.imul(slot ^ c.codePointAt(0), 16777619) >>> 0;
  for (slot %= 10; taken.has(slot);) slot = (slot + 1) % 10;
  if (taken.add(slot).size == 10) taken.clear();
  const id = `look${slot}-${round}`, found = { colour: `var(--c${slot})`, round, id };
  looks.set(device, found);
  if (round && !$(id)) texture(found);
  return found;
}
const PITCH = [0, 5, 5, 5, 8, 8], TURN = [0, 45, -45, 0, 45, -45];
function texture({ colour, round, id }) {
  const size = { width: PITCH[round], height: PITCH[round] }, tint = `color-mix(in oklab, ${colour} 24%, var(--panel))`;
  $("patterns").append(svg("pattern", { id, ...size, patternUnits: "userSpaceOnUse",
    patternTransform: `rotate(${TURN[round]})` }, svg("rect", { ...size, fill: tint }),
    svg("rect", { ...size, width: 1.5, fill: colour })));
}
function colour(node, device) {
  const { colour, round, id } = look(device);
  node.style.setProperty("--c", colour);
  if (round && node.tagName == "rect") node.style.fill = `url(#${id})`;
  return node;
}
function swatch(device) {
  const { round } = look(device), node = colour(tag("span", { class: "swatch" }), device);
  if (round) node.style.backgroundImage =
    `repeating-linear-gradient(${TURN[round] + 90}deg, var(--c) 0 1.5px, transparent 0 ${PITCH[round] - 1}px)`;
  return node;
}
const named = device => (device == null ? null
  : tag("span", {}, swatch(device), tag("bdi", { class: "name" }, device)));

// ---- The compressed axis. Every bound is a mark, and every cell between two marks gets the height it deserves.
function compress(space, ranges) {
  const inclusive = (first, end, more) => ({ space: space.name, lo: BigInt(first), hi: BigInt(end), ...more });
  const pools = (space.pools ?? []).map(([first, end]) => inclusive(first, end));
  const reserved = (space.reserved ?? []).map(r => inclusive(r.first, r.last, { owner: r.owner }));
  const all = [...ranges, ...pools, ...reserved];
  const marks = [...new Set(all.flatMap(r => [r.lo, r.hi + 1n]))].sort(order);
  const at = new Map(marks.map((mark, i) => [mark, i]));
  for (const r of all) [r.a, r.b] = [at.get(r.lo), at.get(r.hi + 1n)];
  const cells = marks.slice(1).map((mark, i) => ({ size: Number(mark - marks[i]), count: mark - marks[i], lanes: 0 }));
  for (const r of reserved) for (let i = r.a; i < r.b; i++) cells[i].reserved = true;
  for (const h of ranges) for (let i = h.a; i < h.b; i++) cells[i].lanes = Math.max(cells[i].lanes, h.lanes);
  cells.forEach((cell, i) => {
    const log = Math.log2(cell.size), near = [cells[i - 1], cells[i + 1]].filter(c => c && (c.lanes || c.reserved));
    cell.cut = !cell.lanes && !cell.reserved && cell.size >= 8 * Math.min(...near.map(c => c.size));
    cell.height = cell.lanes ? Math.max(15 + log, Math.min(14 * cell.lanes, 70))
      : cell.reserved || cell.cut ? 15 : 6 + log / 2;
  });
  // One screenful, with room to label what is held at one time; but never less than 2 px for what was ever held.
  const total = cells.reduce((sum, cell) => sum + cell.height, 0);
  const stretch = clamp(total, clamp(LINE * most(levels(ranges), 1), 60, 600), 600) / total, y = [4];
  for (const cell of cells) y.push(y.at(-1) + Math.max(cell.height * stretch, cell.reserved ? 2 : 2 * cell.lanes, 1));
  for (const h of ranges) [h.spot, h.room] = clearing(h, cells, y);
  return { pools, reserved, marks, cells, y, height: y.at(-1) + 4 };
}
function levels(ranges) {  // how many are held at each revision
  const steps = new Array(moments.length + 1).fill(0);
  for (const h of ranges) steps[h.start]++, steps[h.end]--;
  let now = 0;
  return steps.slice(0, -1).map(step => (now += step));
}
function nest(ranges) {  // sharers of one range get a lane each; a range knows how deep it lies, and what lies in it
  const shared = new Map(), key = h => `${h.lo}-${h.hi}`;
  for (const h of ranges.sort((p, q) => p.start - q.start)) {
    const lanes = shared.get(key(h)) ?? [], free = lanes.findIndex(lane => lane.at(-1).end <= h.start);
    shared.set(key(h), lanes);
    h.lane = free < 0 ? lanes.push([]) - 1 : free;
    lanes[h.lane].push(h);
    [h.depth, h.inner] = [0, []];
  }
  let open = [];
  const all = [...shared.values()].flat().sort(([p], [q]) => order(p.lo, q.lo) || order(q.hi, p.hi) || p.lane - q.lane);
  for (const lane of all) {
    const [{ lo, hi }] = lane, { length } = shared.get(key(lane[0]));
    for (const h of lane) h.lanes = length;
    open = open.filter(([g]) => g.hi >= lo);
    for (const outer of open.filter(([g]) => g.hi >= hi)) {
      let i = 0;  // a lane is in order of time, so that two are gone through side by side
      for (const h of lane) {
        while (outer[i]?.end <= h.start) i++;
        for (let j = i; outer[j]?.start < h.end; j++, h.depth++) if (key(outer[j]) != key(h)) outer[j].inner.push(h);
      }
    }
    open.push(lane);
  }
  return all.flat();  // by address
}
function clearing(h, cells, y) {  // the middle and height of the tallest stretch of a range that nothing inner covers
  let best = [(y[h.a] + y[h.b]) / 2, h.inner.length ? 0 : y[h.b] - y[h.a]];
  if (!h.inner.length) return best;
  const covered = new Set(h.inner.flatMap(g => Array.from({ length: g.b - g.a }, (_, i) => g.a + i)));
  for (let i = h.a, from = h.a; i < h.b; i++) {
    if (covered.has(i)) from = i + 1;
    else if (y[i + 1] - y[from] > best[1]) best = [(y[from] + y[i + 1]) / 2, y[i + 1] - y[from]];
  }
  return best;
}

// ---- One section a space: what is held at the chosen revision, and beside it the whole log, on one axis.
const BED = 96, LINE = 13, LETTER = 6.65;
function section(space, ranges) {
  ranges = nest(ranges);
  const { pools, reserved, marks, cells, y, height } = compress(space, ranges);
  const status = tag("span", { class: "soft" }), plot = tag("div", { class: "plot" });
  const card = tag("section", { class: "space card", "data-space": space.name }, tag("div", { class: "head" },
    tag("h2", {}, space.name), tag("span", { class: "soft" }, KINDS[space.name]?.[0] ?? ""), status), plot);
  const pooled = pools.reduce((sum, p) => sum + p.hi - p.lo + 1n, 0n), tall = height > 640;
  let width = 0, mapWidth, map, cursor, seat, shown = new Set();
  const canvas = (w, h, props) => svg("svg", { width: w, height: h, viewBox: `0 0 ${w} ${h}`, ...props });

  function draw() {  // everything that does not move; true if it had to be drawn anew
    if (plot.clientWidth == width) return false;
    width = plot.clientWidth;
    const stacked = width < 700, wide = stacked ? width : width - (mapWidth = clamp(width * .4, 300, 440)) - 16;
    if (stacked) mapWidth = width;
    plot.classList.toggle("stacked", stacked);
    plot.classList.toggle("tall", tall);
    for (const h of ranges) h.bar = null;
    shown = new Set();
    map = canvas(mapWidth, height, { class: "map", tabindex: 0, role: "group",
      "aria-label": `${space.name}: what is held at the chosen revision` });
    map.append(ground(0, BED), ...notes());
    const [top, time] = timeline(wide - (tall ? 14 : 0));
    walk(map, () => [...shown], "bar");
    walk(time, () => ranges, "span");
    const spacer = canvas(mapWidth, stacked ? 1 : 30, { class: "top", "aria-hidden": "true" });
    plot.replaceChildren(tag("figure", {}, spacer, map), tag("figure", {}, top, time));
    return true;
  }
  function ground(x, wide) {  // pools, reserved stretches, and the zigzag where the axis is cut
    const box = (r, props) => svg("rect", { x, y: y[r.a], width: wide, height: y[r.b] - y[r.a], ...props });
    const zigzag = (mid, swing) => `M${x},${mid}` + Array.from({ length: Math.ceil(wide / 6) },
      (_, i) => `L${x + Math.min(6 * i + 6, wide)},${mid + (i % 2 ? swing : -swing)}`).join("");
    return svg("g", {}, ...pools.map(r => box(r, { class: "pool" })),
      ...reserved.map((r, i) => box(r, { class: "reserved", "data-reserved": i })),
      ...cells.map((cell, i) => (!cell.cut || y[i + 1] - y[i] < 3 ? null : svg("path", { class: "break",
        d: zigzag((y[i] + y[i + 1]) / 2, y[i + 1] - y[i] > 9 ? 3 : 1) }))));
  }
  function notes() {  // who a stretch is reserved for, and how much is cut out of the axis
    const note = (r, text) => (y[r.b] - y[r.a] < 10 ? null : svg("text", { class: "faint over", x: BED / 2,
      y: (y[r.a] + y[r.b]) / 2, "text-anchor": "middle" }, cut(text, 15)));
    const short = text => (text.length > 15 ? text.replace(/ \w+$/, "") : text);
    return [...cells.map((cell, i) => cell.cut && note({ a: i, b: i + 1 }, short(amount(cell.count, space.name)))),
      ...reserved.map(r => note(r, r.owner ?? "reserved"))].filter(Boolean);
  }
  function ticks(right) {
    const ends = pools.filter(p => p.lo < p.hi).map(p => [y[p.b], p.hi]), used = [];
    const wanted = [...ends, ...[...pools, ...ranges].map(r => [y[r.a], r.lo])];
    return wanted.map(([at, value]) => [clamp(at, 6, height - 6), value])
      .filter(([at]) => used.every(other => Math.abs(other - at) >= 12) && used.push(at))
      .map(([y, value]) => svg("text", { class: "faint", x: right, y, "text-anchor": "end" }, hex(value, space.name)));
  }
  function timeline(wide) {
    const step = (wide - gutter) / moments.length, spans = svg("g", {}), captions = svg("g", { "aria-hidden": "true" });
    for (const h of [...ranges].sort((p, q) => q.b - q.a - (p.b - p.a))) {
      const slice = (y[h.b] - y[h.a]) / h.lanes, inset = slice > 6 ? .75 : 0, high = Math.max(slice - 2 * inset, 1.5);
      const x = gutter + h.start * step, long = Math.max((h.end - h.start) * step, 2);
      const top = y[h.a] + h.lane * slice + inset, beyond = h.end > last ? 4 : 0;  // what is still held has no end
      h.span = colour(svg("rect", { class: high < 5 || long < 5 ? "box fine" : "box", x, y: top, height: high,
        width: long + beyond, role: "img", tabindex: -1, "data-i": h.i, "aria-label": words(h) }), h.device);
      spans.append(h.span);
      // A name stands where nothing inner ever covers it, or else before the first that does.
      const lone = h.lanes == 1, until = !lone || h.room >= 11 ? [] : h.inner;
      const free = until.reduce((first, g) => Math.min(first, g.start), h.end);
      const letters = Math.floor(((free - h.start) * step - 10) / LETTER);
      if (high >= 11 && letters > 2) captions.append(h.caption = colour(svg("text", { class: "over", x: x + 6,
        y: lone ? h.spot : top + high / 2 }, cut(h.device, letters)), h.device));
      fade(h);
    }
    const line = () => svg("line", { x1: step / 2, x2: step / 2, y2: height });
    cursor = svg("g", { class: "cursor" }, svg("rect", { width: Math.max(step, 1), height }), line(), line());
    seat = i => gutter + i * step;
    const time = canvas(wide, height, { class: "time", tabindex: 0, role: "group",
      "aria-label": `${space.name}: who held what, over all revisions` });
    time.append(ground(gutter, wide - gutter), ...ticks(gutter - 6), spans, captions, cursor);
    const scrub = e => {
      if (e.buttons == 1) go(Math.floor((e.clientX - time.getBoundingClientRect().left - gutter) / step));
    };
    on(time, "pointerdown", e => { time.setPointerCapture(e.pointerId); scrub(e); });
    on(time, "pointermove", scrub);
    return [ruler(wide, step), time];
  }
  function ruler(wide, step) {
    const top = canvas(wide, 30, { class: "top", "aria-hidden": "true" }), gap = 6.1 * (face[1] - face[0]) + 22;
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5].find(n => n * step >= gap) ?? Infinity;
    for (let i = 0; i < moments.length; i += every) {
      const x = seat(i + .5), middle = clamp(x, 0, wide - 30), text = { x: middle, "text-anchor": "middle" };
      top.append(svg("text", { ...text, y: 8 }, `${moments[i].revision}`),
        svg("text", { ...text, y: 20, class: "faint" }, clock(moments[i])),
        svg("line", { x1: x, x2: x, y1: 26, y2: 30, stroke: "var(--soft)" }));
    }
    return top;
  }
  function bar(h) {  // made when a range is first shown; from then on only hidden and labelled
    const x = Math.min(h.depth, 5) * 11 + .75, high = y[h.b] - y[h.a], text = bounds(h);
    const room = Math.floor((mapWidth - BED - 24) / LETTER) - text.length - 4;
    h.bar = svg("g", { "data-i": h.i, role: "img", tabindex: -1, "aria-label": words(h) }, colour(svg("rect", {
      class: high < 5 ? "box fine" : "box", x, y: y[h.a] + (high < 5 ? 0 : .75), width: BED - x - .75,
      height: Math.max(high - (high < 5 ? 0 : 1.5), 1.5) }), h.device));
    h.leader = svg("path", { class: "leader" });
    h.label = svg("text", { x: BED + 24 }, h.sign = svg("tspan", {}), svg("tspan", { "font-weight": 600 },
      cut(h.device, Math.max(room, 5))), svg("tspan", { class: "bounds", dx: 6 }, text));
    h.bar.append(h.text = svg("g", {}, h.leader, h.label));
    map.append(h.bar);
    h.at = h.mood = undefined;
  }
  function label(list, i) {  // at its range if it can be, else pushed down, then up; thinned where there is no room
    const crowded = list.length * LINE > height, kept = [];
    const fresh = h => h.start == i || h.end == i;
    for (const h of crowded ? [...list].sort((p, q) => fresh(q) - fresh(p)) : list)
      if (!crowded || kept.every(k => Math.abs(k.at - h.spot) >= LINE)) kept.push({ h, at: h.spot });
    kept.sort((p, q) => p.at - q.at);
    kept.forEach((k, j) => { k.at = Math.max(k.at, j ? kept[j - 1].at + LINE : 7); });
    let floor = height - 6;
    for (const k of kept.toReversed()) floor = (k.at = Math.min(k.at, floor)) - LINE;
    const labelled = new Map(kept.map(k => [k.h, k.at]));
    for (const h of list) {
      const at = labelled.get(h) ?? null;
      if (at === h.at) continue;
      h.text.setAttribute("display", (h.at = at) == null ? "none" : "inline");
      h.label.setAttribute("y", at ?? 0);
      h.leader.setAttribute("d", `M${BED},${h.spot}h5L${BED + 17},${at ?? 0}h4`);
    }
    return kept.length;
  }
  function mood(h, word) {
    if (h.mood == word) return;
    h.bar.setAttribute("class", h.mood = word);
    h.sign.textContent = { ghost: "− ", new: "+ " }[word] ?? "";
    fade(h);
  }
  function move(i) {  // to revision index i; returns what is held there
    const now = new Set(ranges.filter(h => h.start <= i && (i < h.end || (i == h.end && h.start < i))));
    for (const h of shown) if (!now.has(h)) h.bar.setAttribute("display", "none");
    for (const h of now) {
      if (!h.bar) bar(h);
      if (!shown.has(h)) h.bar.setAttribute("display", "inline");
      mood(h, h.end == i ? "ghost" : h.start == i ? "new" : "");
    }
    shown = now;
    const live = [...now].filter(h => h.end != i), labels = label([...now], i);
    let used = 0n, edge = 0;
    for (const h of live) if (h.b > edge) [used, edge] = [used + marks[h.b] - marks[Math.max(h.a, edge)], h.b];
    status.textContent = `${plural(live.length, "range")} held: ${amount(used, space.name)}`
      + (pooled ? ` of ${amount(pooled, space.name)}` : "") + (labels < now.size ? `; ${labels} labelled` : "");
    cursor.setAttribute("transform", `translate(${seat(i)})`);
    const fresh = tall && live.find(h => h.start == i), floor = plot.scrollTop + plot.clientHeight - 40;
    if (fresh && (y[fresh.a] < plot.scrollTop || y[fresh.b] > floor)) plot.scrollTop = y[fresh.a] - 60;
    return live;
  }
  return { name: space.name, card, reserved, draw, move };
}
function walk(view, list, part) {  // a chart is one tab stop; inside it, arrows go from range to range
  on(view, "keydown", e => {
    const all = list(), now = all.findIndex(h => h[part] == document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (step && all.length) all[clamp(now + step, 0, all.length - 1)][part].focus();
    else if (e.key == "Enter" && now >= 0) go(all[now].start);
    else return;
    e.preventDefault();
  });
}

// ---- The page: head, log, table, tooltip, search. Whatever moves goes through go(), and is drawn by paint().
const spaces = [...data.spaces];
for (const h of holdings) if (!spaces.some(s => s.name == h.space)) spaces.push({ name: h.space });
for (const { device } of [...moments, ...holdings]) if (device != null) look(device);
const busy = spaces.map(s => [s, holdings.filter(h => h.space == s.name)]).filter(([, ranges]) => ranges.length);
// One width for the addresses of all sections, so that their cursors stand in one line.
const bound = ([s, ranges]) => [...ranges.map(h => h.hi), ...(s.pools ?? []).map(p => BigInt(p[1]))]
  .map(value => hex(value, s.name).length);
const gutter = 14 + 6.1 * most(busy.flatMap(bound), 6);
const sections = busy.map(([s, ranges]) => section(s, ranges));
const refused = moments.flatMap((m, i) => (m.refused ? [i] : []));
let current = last, queued = false, playing = 0, saving = 0;
let query = "", hits = new Set(holdings), listed = moments, marked = null, hot = null;
const FEW = 200, ROW = 44;  // rows in the table; pixels of a row in the log, as page.css has it

function head() {
  document.title = $("title").textContent = data.title;
  const span = moments.length && [moments[0], moments[last]].map(m => stamp(m.time).slice(0, 19)).join(" to ") + " UTC";
  $("facts").textContent = [data.platform, plural(moments.length, "event"), plural(looks.size, "device"),
    `${plural(holdings.length, "range")} held over time`, span].filter(Boolean).join("  ·  ");
  const silent = spaces.filter(s => !sections.some(shown => shown.name == s.name)).map(s => s.name).join(", ");
  $("generated").textContent = (silent && `Nothing was ever held in ${silent}. `)
    + `Made by esrm from the log as it was at ${stamp(data.generated)}.`;
  $("slider").max = $("number").max = Math.max(last, 0);
  $("last").textContent = `of ${moments[last]?.revision ?? 0}`;
  $("refusals").textContent = `${refused.length} refused`;
  $("refusals").hidden = !refused.length;
  document.body.classList.toggle("long", moments.length > FEW);
}
function overview() {
  const counts = levels(holdings), all = most(counts, 1);
  $("overview").setAttribute("viewBox", `0 0 ${moments.length || 1} 30`);
  const steps = counts.map((count, i) => `L${i},${29 - 25 * count / all}h1`).join("");
  $("overview").append(svg("path", { d: `M0,30${steps}V30Z` }),
    svg("path", { d: refused.map(i => `M${i + .5},0v30`).join("") }));
}
function entry(m) {
  if (m.row) return m.row;
  const type = tag("b", {}, m.type);
  const what = m.device == null ? [type] : [swatch(m.device), type, " ", tag("bdi", {}, m.device)];
  m.link = tag("a", { href: `#rev=${m.revision}`, tabindex: -1 },
    tag("span", { class: "soft mono" }, `${m.revision}`), tag("span", {}, ...what),
    tag("span", { class: "soft summary", title: m.summary },
      tag("span", { class: "mono" }, clock(m)), ` ${m.summary}`));
  const refused = m.refused ? "refused" : null;
  return m.row = tag("li", { "data-revision": m.revision, "data-type": m.type, class: refused }, m.link);
}
function log() {  // a long log has in the page only what is in view, and some more
  const many = listed.length > FEW, wanted = Math.floor($("logview").scrollTop / ROW) - 40;
  const from = many ? clamp(wanted, 0, listed.length - 120) : 0, part = listed.slice(from, many ? from + 120 : FEW);
  $("log").style.paddingTop = `${from * ROW}px`;
  $("log").style.paddingBottom = `${(listed.length - from - part.length) * ROW}px`;
  settle($("log"), part.map(entry));
}
function settle(parent, nodes) {  // the children become these, touching only what changes
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let next = parent.firstChild;
  for (const node of wanted) node == next ? next = next.nextSibling : parent.insertBefore(node, next);
}
function row(h) {
  const when = moments.length ? ` ${clock(moments[h.start])}` : "";
  return h.row ??= tag("tr", { "data-i": h.i, "data-device": h.device, "data-space": h.space, "data-first": h.first,
    "data-last": h.last, "data-since": h.from }, tag("td", {}, named(h.device)), tag("td", {}, h.kind),
    tag("td", {}, h.space), tag("td", { class: "mono" }, bounds(h)),
    tag("td", { class: "mono" }, amount(h.hi - h.lo + 1n, h.space)),
    tag("td", {}, tag("a", { href: `#rev=${h.from}` }, `${h.from}`), tag("span", { class: "soft mono" }, when)));
}
function go(i) {
  current = clamp(i, 0, Math.max(last, 0));
  queued ||= !!requestAnimationFrame(paint);
}
function paint() {
  queued = false;
  const m = moments[current], live = sections.flatMap(s => s.move(current)).filter(h => hits.has(h));
  settle($("holdings").tBodies[0], live.slice(0, FEW).map(row));
  $("nowtitle").textContent = `Held at revision ${m?.revision ?? 0}`;
  $("nownote").textContent = (live.length > FEW ? `the first ${FEW} of ` : "") + plural(live.length, "range")
    + (query ? " found" : "");
  if (!m) return;
  $("slider").value = current;
  $("slider").setAttribute("aria-valuetext", `revision ${m.revision}: ${m.type} ${m.device ?? ""}`);
  $("number").value = m.revision;
  const event = $("event");
  event.className = m.refused ? "refused" : "";
  Object.assign(event.dataset, { revision: m.revision, type: m.type, device: m.device ?? "", refused: !!m.refused });
  event.replaceChildren(...[tag("b", {}, m.refused ? `✕ ${m.type}` : m.type), named(m.device),
    tag("span", { class: "mono" }, stamp(m.time)), m.actor == null ? null : tag("span", { class: "soft" }, "by ",
      tag("bdi", {}, m.actor)), tag("span", { class: "summary" }, m.summary)].filter(Boolean));
  root.style.setProperty("--below", `${$("controls").offsetHeight + 12}px`);
  follow(m);
  clearTimeout(saving);  // late, since browsers limit how often a page may write its own address
  saving = setTimeout(() => history.replaceState(null, "", `#rev=${moments[current].revision}`
    + (query && `&find=${encodeURIComponent(query)}`)), 250);
}
function follow(m) {  // the log's current row: marked, in view, and focused if the focus was in the log
  const view = $("logview"), inside = view.contains(document.activeElement);
  if (marked) marked.link.removeAttribute("aria-current"), marked.link.tabIndex = -1;
  entry(marked = m);
  m.link.setAttribute("aria-current", "true");
  m.link.tabIndex = 0;
  log();
  const at = listed.indexOf(m) * ROW - view.scrollTop;
  if (at < ROW || at > view.clientHeight - 2 * ROW) view.scrollTop += at - view.clientHeight / 2;
  log();
  if (inside) m.link.focus({ preventScroll: true });
}
function play(start) {
  clearInterval(playing);
  const advance = () => (current < last ? go(current + Math.ceil(moments.length / 300)) : play(false));
  playing = start ? setInterval(advance, clamp(20000 / moments.length, 90, 500)) : 0;
  if (start && current >= last) go(0);
  $("event").setAttribute("aria-live", start ? "off" : "polite");
  $("play").textContent = start ? "❚❚ Stop" : "▶ Play";
}

// An address finds who held it at any time, a word finds devices and events; all the rest steps back.
function find(text) {
  query = text.trim().toLowerCase();
  const plain = query.replace(/^(..):(..):(..):(..):(..):(..)$/, "0x$1$2$3$4$5$6");
  const number = /^(0x[0-9a-f]+|\d+)$/.test(plain) ? BigInt(plain) : null;
  const has = word => `${word ?? ""}`.toLowerCase().includes(query);
  const hit = h => has(h.device) || has(h.kind) || (number != null && h.lo <= number && number <= h.hi);
  hits = new Set(holdings.filter(hit));
  holdings.forEach(fade);
  const told = new Set([...hits].flatMap(h => [h.allocated_by, h.from, h.to]));
  listed = moments.filter(m => told.has(m.revision) || [m.device, m.type, m.actor, m.summary].some(has));
  $("lognote").textContent = query ? `${listed.length} of ${moments.length}` : "";
  queued ||= !!requestAnimationFrame(paint);
}
function fade(h) {
  for (const part of [h.span, h.bar, h.caption]) part?.classList.toggle("dim", !hits.has(h));
}

function tip(target, x, y) {
  const part = target?.closest?.("[data-i], [data-reserved]") ?? null, box = $("tip");
  if (part != hot) {
    for (const other of document.querySelectorAll(".hot")) other.classList.remove("hot");
    box.hidden = !(hot = part);
    if (part) box.replaceChildren(...(part.dataset.i ? story(holdings[part.dataset.i])
      : sign(sections.find(s => s.card.contains(part)).reserved[part.dataset.reserved])));
  }
  if (!part) return;
  const near = part.getBoundingClientRect(), { offsetWidth: wide, offsetHeight: high } = box;
  [x, y] = [x ?? clamp(near.left + near.width / 2, 10, innerWidth), y ?? near.bottom];
  box.style.left = `${clamp(x + 14, 6, innerWidth - wide - 6)}px`;
  box.style.top = `${y + 16 + high > innerHeight ? Math.max(6, y - high - 12) : y + 16}px`;
}
const line = (term, ...what) => [tag("dt", {}, term), tag("dd", {}, ...what)];
const extent = r => line(r.space,
  tag("span", { class: "mono" }, `${bounds(r)} (${amount(r.hi - r.lo + 1n, r.space)})`));
const sign = r => [tag("bdi", { class: "name" }, r.owner ?? ""),
  tag("dl", {}, ...extent(r), ...line("reserved", "by the platform; no device gets it"))];
function story(h) {
  for (const other of [h.span, h.bar, h.row]) other?.classList.add("hot");
  const event = revision => {
    const m = moments[indexes.get(revision)], by = m?.actor == null ? "" : `, by ${m.actor}`;
    return `revision ${revision}` + (m ? `: ${m.type}, ${stamp(m.time)}${by}` : "");
  };
  return [named(h.device), tag("span", { class: "soft" }, `  ${h.kind ?? ""}`), tag("dl", {}, ...extent(h),
    ...line("given", event(h.allocated_by ?? h.from)),
    ...line("taken back", h.to == null ? "not yet; held at the log's end" : event(h.to)))];
}

function arrive() {
  const hash = new URLSearchParams(location.hash.slice(1));
  if (/^\d+$/.test(hash.get("rev"))) go(place(+hash.get("rev")));
  if (hash.has("find")) find($("find").value = hash.get("find"));
}
function wire() {
  on($("slider"), "input", e => go(+e.target.value));
  on($("number"), "change", e => go(place(+e.target.value)));
  on($("overview"), "click", e => {
    const box = $("overview").getBoundingClientRect();
    go(Math.floor((e.clientX - box.left) / box.width * moments.length));
  });
  on($("back"), "click", () => go(current - 1));
  on($("on"), "click", () => go(current + 1));
  on($("play"), "click", () => play(!playing));
  on($("refusals"), "click", () => go(refused.find(i => i > current) ?? refused[0]));
  on($("find"), "input", e => find(e.target.value));
  on($("logview"), "scroll", log);
  on(document, "pointermove pointerdown", e => tip(e.target, e.clientX, e.clientY));
  on(document, "focusin", e => tip(e.target));
  on(document, "focusout pointerleave", () => tip(null));
  on(document, "keydown", e => {
    if (e.key == "Escape") tip(null);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ...(e.target.closest("#log") && { ArrowUp: -1, ArrowDown: 1 }) };
    if (!steps[e.key] || e.altKey || e.ctrlKey || e.metaKey || e.target.matches("input")) return;
    go(current + steps[e.key] * (e.shiftKey ? 10 : 1));
    e.preventDefault();
  });
  on(window, "hashchange", arrive);
  new ResizeObserver(() => sections.filter(s => s.draw()).length && paint()).observe($("left"));
}

head();
overview();
$("spaces").append(...sections.map(s => s.card));
for (const s of sections) s.draw();
play(false);
arrive();
paint();
wire();
root.dataset.state = "ready";
