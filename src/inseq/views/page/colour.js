// Numbers as texts and colours. The colours are those of the style sheet, so that there is one place for them.
const LEVELS = 33, CALM = 1.6;
const palettes = new Map();

function make(name, kind, text) {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  return element;
}

const on = (target, event, act, how) => target.addEventListener(event, act, how);
const mark = (element, name, value) => element.setAttribute(name, value);

function palette(root, kind) {
  const letter = kind === "diverging" ? "d" : "s", key = letter + getComputedStyle(root).colorScheme + getComputedStyle(root).backgroundColor;
  if (!palettes.has(key)) {
    const probe = make("div", "live");
    root.append(probe);
    palettes.set(key, Array.from({ length: LEVELS }, (_, i) => {
      const sample = make("i", letter + i);
      probe.append(sample);
      const style = getComputedStyle(sample);
      return { fill: style.backgroundColor, ink: style.color };
    }));
    probe.remove();
  }
  return palettes.get(key);
}

function levelOf(value, scale) {
  const width = scale.maximum - scale.minimum;
  const share = width > 0 ? (value - scale.minimum) / width : scale.kind === "diverging" ? 0.5 : 0;
  return Math.round(Math.min(Math.max(share, 0), 1) * (LEVELS - 1));
}

function classOf(value, scale) {
  return isFinite(value) ? (scale.kind === "diverging" ? "d" : "s") + levelOf(value, scale) : "";
}

// The largest magnitude that is counted, or the given quantile of the magnitudes.
function largest(values, clip, counted) {
  const sizes = [];
  for (let i = 0; i < values.length; i++) if (isFinite(values[i]) && counted(i)) sizes.push(Math.abs(values[i]));
  if (!sizes.length && counted !== everything) return largest(values, clip, everything);
  sizes.sort((a, b) => a - b);
  return sizes[Math.floor(clip * (sizes.length - 1))] || 0;
}

const everything = () => true;

function scaleOf(kind, limit) {
  return { kind, minimum: kind === "diverging" ? -limit : 0, maximum: limit };
}

function exponent(most) {
  return !most || !isFinite(most) || (most >= 0.05 && most < 1000) ? 0 : Math.floor(Math.log10(most));
}

function powerOf(values) {
  return exponent(largest(values, 1, everything));
}

function number(value, power) {
  if (!isFinite(value)) return "";
  const text = (value / 10 ** (power || 0)).toFixed(2);
  return Number(text) ? text.replace("-", "−") : "0.00";
}

function exact(value) {
  const size = Math.abs(value), small = value && size < 1e-3;
  return isFinite(value) ? String(small ? value.toExponential(2) : Number(value.toPrecision(size < 1000 ? 3 : 7))).replace(/^-/, "−") : "no number";
}

// Long texts in short; what is written from right to left stays apart from the numbers beside it.
function brief(text) {
  const signs = Array.from(text), said = signs.length > 60 ? signs.slice(0, 30).join("") + " … " + signs.slice(-30).join("") : text;
  return /[\u0590-\u08ff\ufb1d-\ufefc]/.test(said) ? "\u2068" + said + "\u2069" : said;
}

function powerSign(power) {
  return power ? " × 10" + String(power).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]) : "";
}

// Where the host says nothing, the colour of its text tells whether it is dark.
const HOSTS = "[data-theme],html[theme],body[data-jp-theme-light],body[data-vscode-theme-kind]";

function follow(root) {
  if (root.dataset.chosen || !root.parentElement || root.parentElement.closest(HOSTS)) return;
  const [r, g, b] = getComputedStyle(root.parentElement).color.match(/[\d.]+/g).map(Number);
  root.dataset.theme = 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "dark" : "light";
}
