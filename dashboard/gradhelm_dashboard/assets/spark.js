// A line as small as a word.

/** The path of `values` in a box: the middle 96 % rule its height, and what is not finite breaks it. Pure. */
export function sparkPath(values, width, height) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (sorted.length < 2) return "";
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  const low = at(0.02);
  const span = Math.max(at(0.98) - low, Math.abs(low) * 1e-3, 1e-12);
  let path = "";
  let pen = "M";
  values.forEach((value, i) => {
    if (!Number.isFinite(value)) {
      pen = "M";
      return;
    }
    const x = (i / (values.length - 1)) * width;
    const y = height - 1 - Math.max(0, Math.min(1, (value - low) / span)) * (height - 2);
    path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  });
  return path;
}

/** At most `most` means of equal parts; what is not finite is left out of them. Pure. */
export function thinned(values, most) {
  const size = Math.ceil(values.length / most);
  if (size < 2) return values;
  const means = [];
  for (let from = 0; from < values.length; from += size) {
    const part = values.slice(from, from + size).filter(Number.isFinite);
    means.push(part.length ? part.reduce((a, b) => a + b, 0) / part.length : NaN);
  }
  return means;
}

export function sparkline(values, width = 72, height = 22) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("class", "spark-small");
  picture.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "path");
  line.setAttribute("d", sparkPath(thinned(values, width), width, height));
  picture.append(line);
  return picture;
}
