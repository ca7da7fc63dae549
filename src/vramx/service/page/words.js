// Numbers as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function size(bytes) {
  let unit = 0;
  while (bytes >= 1024 && unit < UNITS.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${Number(bytes.toFixed(bytes >= 100 ? 0 : 1))} ${UNITS[unit]}`;
}

export function rate(bytes) {
  return `${size(bytes)}/s`;
}

export function time(seconds) {
  if (seconds < 1) return "less than a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function several(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

export function percent(part) {
  return `${Math.floor(100 * part)} %`;
}
