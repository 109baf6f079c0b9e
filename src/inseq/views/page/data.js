// Scores and texts of one result, and what they become when tokens are joined.
const BLANK = 1, SPECIAL = 2, OUTPUT = 4, BREAK = 8, UNCOUNTED = 16;

function floats(text, half, unit) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  if (!half) return new Float32Array(bytes.buffer);
  const view = new DataView(bytes.buffer), found = new Float32Array(bytes.length / 2);
  for (let i = 0; i < found.length; i++) found[i] = unit * widened(view.getUint16(2 * i, true));
  return found;
}

function widened(bits) {
  const sign = bits >> 15 ? -1 : 1, power = (bits >> 10) & 31, rest = bits & 1023;
  if (power === 31) return rest ? NaN : sign * Infinity;
  return sign * (power ? 2 ** (power - 15) * (1 + rest / 1024) : rest * 2 ** -24);
}

function read(element) {
  const told = JSON.parse(element.textContent);
  const data = { ...told, values: floats(told.values, told.half, told.unit), planeValues: floats(told.planeValues, told.half, told.unit) };
  data.places = told.places.map(([text, flags, row, column, group]) => ({ text, flags, row, column, group }));
  data.custom = null;
  return data;
}

// The scores at the chosen layer and head; `index` has null where all of an axis are folded.
function plane(data, index) {
  if (index.every((i) => i === null)) return data.values;
  const size = data.values.length, at = data.planes.findIndex((p) => p.every((i, n) => i === index[n]));
  return data.planeValues.subarray(at * size, (at + 1) * size);
}

// A level joins places to units: what is pointed at in the text. Its matrix has a row and a column for each group.
function level(data, name, index) {
  const groups = name === "token" ? null : name === "custom" ? data.custom : data.groupings.find((g) => g[0] === name)[1];
  const units = [], rows = [], columns = [];
  data.places.forEach((place, i) => {
    const key = groups ? groups[i] : place.group, line = place.flags & OUTPUT;
    let unit = units[units.length - 1];
    if (!unit || unit.key !== key || unit.line !== line) {
      unit = { key, line, places: [], rows: [], columns: [] };
      units.push(unit);
    }
    unit.places.push(i);
    add(rows, unit.rows, place.row, unit, groups, place, data.rows);
    add(columns, unit.columns, place.column, unit, groups, place, data.columns);
  });
  const found = { units, rows, columns, values: null, steps: [], shares: [] };
  found.values = summed(plane(data, index), data.columns.length, rows, columns);
  found.steps = data.steps.map(([step, cells]) => [step, columns.map((c) => meanOf(c.members.map((m) => cells[m])))]);
  found.shares = columns.map((c) => meanOf(c.members.map((m) => data.shares[m])));
  return found;
}

function add(all, own, member, unit, groups, place, labels) {
  if (member === null) return;
  const last = all[all.length - 1], counted = !(place.flags & UNCOUNTED);
  if (last && last.members.includes(member)) {
    if (own[own.length - 1] !== all.length - 1) own.push(all.length - 1);
    return;
  }
  if (groups && last && last.unit === unit) {
    last.members.push(member);
    last.label += (place.flags & BLANK ? " " : "") + place.text;
    last.counted = last.counted || counted;
    return;
  }
  own.push(all.length);
  all.push({ members: [member], unit, counted, label: groups ? place.text : labels[member] });
}

function summed(values, width, rows, columns) {
  const found = new Float32Array(rows.length * columns.length).fill(NaN);
  rows.forEach((row, i) => columns.forEach((column, j) => {
    let sum = NaN;
    for (const r of row.members) for (const c of column.members) {
      const value = values[r * width + c];
      if (isFinite(value)) sum = isNaN(sum) ? value : sum + value;
    }
    found[i * columns.length + j] = sum;
  }));
  return found;
}

const numbers = (values) => values.filter(Number.isFinite);

function sumOf(values) {
  const there = numbers(values);
  return there.length ? there.reduce((a, b) => a + b) : NaN;
}

function meanOf(values) {
  return sumOf(values) / numbers(values).length;
}

// The same tokens with other scores: what the first result has more than the second.
function difference(a, b) {
  const values = a.values.map((v, i) => v - b.values[i]);
  const steps = a.steps.filter(([name]) => b.steps.some((s) => s[0] === name)).map(([name, cells]) => {
    const other = b.steps.find((s) => s[0] === name)[1];
    return [name, cells.map((v, i) => (v === null || other[i] === null ? null : v - other[i]))];
  });
  const left = new Set(a.places.filter((p) => p.flags & UNCOUNTED).map((p) => p.row));
  const limit = largest(values, 1, (i) => !left.has(Math.floor(i / a.columns.length)));
  return { ...a, values, steps, axes: [], planes: [], shares: [], alternatives: [], kind: "diverging", limits: [-limit, limit], custom: null };
}

function comparable(a, b) {
  const same = (x, y) => x.length === y.length && x.every((text, i) => text === y[i]);
  return same(a.rows, b.rows) && same(a.columns, b.columns);
}
