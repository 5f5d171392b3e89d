// Label pictures: unpacked on demand, painted on a canvas over the grey base, painted again when the view changes.
const CHANGES = [["added", "#2f9bef"], ["removed", "#f39c1f"], ["another label", "#c26be0"]];

const unpack = async (layer) => {
  const packed = Uint8Array.from(atob(layer.data), (sign) => sign.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const entries = new Uint8Array(await new Response(stream).arrayBuffer());
  for (let at = layer.width; at < entries.length; at += 1) entries[at] ^= entries[at - layer.width];
  return { width: layer.width, height: layer.height, ids: [0, ...layer.ids], entries };
};
// The label id of every pixel of a picture; 0 for background, margins and hidden labels.
const idsOf = (grid, picture, off) => {
  const { width, height, margin } = picture;
  const inner = width - 2 * margin;
  const known = Int32Array.from(grid.ids, (id) => (off.has(id) ? 0 : id));
  const columns = Int32Array.from({ length: inner }, (_, x) => Math.floor(((x + 0.5) * grid.width) / inner));
  const ids = new Int32Array(width * height);
  for (let y = 0; y < height; y += 1) {
    const from = Math.floor(((y + 0.5) * grid.height) / height) * grid.width;
    const to = y * width + margin;
    for (let x = 0; x < inner; x += 1) ids[to + x] = known[grid.entries[from + columns[x]]];
  }
  return ids;
};
const paint = (canvas, picture, ids, colourOf) => {
  const { width, height } = picture;
  canvas.width = width;
  canvas.height = height;
  if (look.mode === "plain") return;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const fill = look.mode === "outline" ? 0 : Math.round(255 * (picture.base ? look.alpha : Math.max(look.alpha, 0.85)));
  const cache = new Map();
  // Little-endian pixels: alpha, blue, green, red.
  const packed = (id) => {
    if (!cache.has(id)) {
      const value = parseInt(colourOf(id).slice(1), 16);
      cache.set(id, ((value & 255) << 16) | (value & 0xff00) | (value >> 16));
    }
    return cache.get(id);
  };
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const at = y * width + x;
      const id = ids[at];
      if (id === 0) continue;
      const inside = x > 1 && y > 1 && x < width - 2 && y < height - 2;
      const edge = inside && (ids[at - 2] !== id || ids[at + 2] !== id || ids[at - 2 * width] !== id || ids[at + 2 * width] !== id
        || ids[at - 1] !== id || ids[at + 1] !== id || ids[at - width] !== id || ids[at + width] !== id);
      pixels[at] = ((edge ? 235 : fill) << 24) | packed(id);
    }
  }
  context.putImageData(image, 0, 0);
};
const changedIds = (before, after) => after.map((id, at) => (id === before[at] ? 0 : before[at] === 0 ? 1 : id === 0 ? 2 : 3));

// What a picture shows: instances where it has them, on both sides of a comparison.
const kindOf = (layers) => {
  const alone = look.compare === "after" || !layers["before-classes"];
  return layers[look.what] && (alone || layers[`before-${look.what}`]) ? look.what : "classes";
};

// One plane of one case: its canvases, and how to paint them.
class Plane {
  constructor(picture, label, counted) {
    this.picture = picture;
    this.table = { classes: "classes", instances: counted ? "counted" : "instances" };
    this.grids = new Map();
    this.element = clone("t-plane");
    this.stack = this.element.querySelector(".stack");
    [this.after, this.before] = this.element.querySelectorAll("canvas");
    this.after.setAttribute("aria-label", `${picture.plane} slice of ${label} with its labels`);
    this.element.style.setProperty("--r", (picture.width / picture.height).toFixed(4));
    this.stack.style.aspectRatio = `${picture.width}/${picture.height}`;
    if (picture.base) this.stack.prepend(make("img", { alt: `${picture.plane} slice of ${label}`, decoding: "async", src: picture.base }));
    this.element.querySelector("b").textContent = picture.plane[0].toUpperCase() + picture.plane.slice(1);
    this.element.querySelector(".note-text").textContent = picture.note;
    this.write();
    this.release();
    this.unpackAll().catch(() => say("This browser is too old to unpack the label pictures."));
  }

  // Names, directions and the scale bar.
  write() {
    const { width, height, edges, bar, marks: points, letters } = this.picture;
    const drawing = this.element.querySelector("svg");
    const space = drawing.namespaceURI;
    const em = height * 0.032;
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.style.fontSize = `${em.toFixed(1)}px`;
    const put = (parent, text, x, y, anchor, baseline) => {
      const made = document.createElementNS(space, "text");
      made.textContent = text;
      for (const [key, value] of Object.entries({ x, y, "text-anchor": anchor, "dominant-baseline": baseline })) made.setAttribute(key, value);
      parent.append(made);
    };
    const [around, scale, inside] = drawing.querySelectorAll("g");
    put(around, edges.left, em * 0.4, height / 2, "start", "central");
    put(around, edges.right, width - em * 0.4, height / 2, "end", "central");
    put(around, edges.top, width - em * 1.6, em * 1.2, "end", "auto");
    put(around, edges.bottom, width - em * 1.6, height - em * 0.45, "end", "auto");
    scale.firstElementChild.setAttribute("d", `M${em * 0.5} ${height - em * 0.5}h${bar[1]}`);
    put(scale, `${bar[0]} mm`, em * 0.5, height - em * 0.9, "start", "auto");
    inside.style.fontSize = `${letters}px`;
    // A vertebra that the edge cuts has its centre close to it: its name stays inside.
    const room = 0.6 * letters;
    for (const [x, y, text] of points) put(inside, text, x, Math.min(height - room, Math.max(room, y)), "middle", "central");
  }

  // All layers at once, when the case is opened: painting can then follow every change, and a printer, at once.
  async unpackAll() {
    const names = Object.keys(this.picture.layers);
    const grids = await Promise.all(names.map((name) => unpack(this.picture.layers[name])));
    names.forEach((name, k) => this.grids.set(name, grids[k]));
    if (seen.has(this)) this.paint();
  }

  ids(kind, before) {
    const grid = this.grids.get(before ? `before-${kind}` : kind);
    return grid ? idsOf(grid, this.picture, hidden[this.table[kind]]) : null;
  }

  paint() {
    const kind = kindOf(this.picture.layers);
    const after = this.ids(kind, false);
    if (!after) return;
    const before = look.compare === "after" ? null : this.ids(kind, true);
    const names = data.names[this.table[kind]];
    const colourOf = (id) => (names[id] ? names[id][1] : "#888888");
    const mode = before ? look.compare : "after";
    this.stack.dataset.compare = mode;
    if (mode === "changes") paint(this.after, this.picture, changedIds(before, after), (id) => CHANGES[id - 1][1]);
    else paint(this.after, this.picture, mode === "before" ? before : after, colourOf);
    if (mode === "slider") paint(this.before, this.picture, before, colourOf);
    else this.before.width = 0;
  }

  // A canvas that nobody sees costs megabytes.
  release() {
    this.after.width = 0;
    this.before.width = 0;
  }
}
const planes = new Map();
const seen = new Set();
const repaint = () => {
  for (const plane of seen) plane.paint();
};
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const plane = planes.get(entry.target);
    if (!plane) continue;
    if (entry.isIntersecting) {
      seen.add(plane);
      plane.paint();
    } else if (seen.delete(plane)) plane.release();
  }
}, { rootMargin: "600px" });
