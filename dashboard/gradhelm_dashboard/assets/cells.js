// Cells of the table of runs, as the grid wants them: React components found by name. A plain
// script, because they must be there before the grid is. Everything shown is a text child.

(() => {
  const cells = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});
  const h = (...args) => window.React.createElement(...args);
  const WORDS = {
    live: ["Live", "radio"],
    stale: ["Stale", "clock"],
    failed: ["Failed", "octagon-x"],
    finished: ["Finished", "circle-check"],
    stopped: ["Stopped", "circle-stop"],
  };
  const write = () => window.gradhelmNumbers;
  const bar = (share, tone) =>
    h("span", { className: "bar" }, h("span", { className: tone, style: { width: `${Math.min(100, share * 100)}%` } }));

  const symbol = (name) => h("span", { className: `icon icon-${name}`, "aria-hidden": "true" });

  cells.GradhelmStatus = ({ data }) => {
    const [word, icon] = WORDS[data.status] || [data.status, "info"];
    return h("span", { className: `chip ${data.status}`, title: word }, symbol(icon), h("span", { className: "chip-word" }, word));
  };
  cells.GradhelmRun = ({ data }) => {
    const told = data.status === "live" ? null : data.status_reason;
    const tags = data.tags || [];
    const bad = data.nonfinite > 0 ? `${write().count(data.nonfinite)} non-finite` : null;
    return h("span", { className: "run-cell" },
      h("span", { className: "run-line" },
        h("a", { href: `/runs/${encodeURIComponent(data.id)}`, className: "run-name", title: data.name, tabIndex: -1 }, data.name),
        data.note ? h("span", { className: "run-note", title: data.note, role: "img", "aria-label": "Has a note" }, symbol("file-text")) : null),
      h("span", { className: "run-line" },
        bad ? h("span", { className: "run-sub bad-text narrow-only" }, bad) : null,
        h("span", { className: `run-sub ${told ? data.status : ""}`, title: told || data.project }, told || data.project),
        ...tags.slice(0, 4).map((tag, i) => h("span", { className: "tag small-tag", key: i, title: tag }, tag)),
        tags.length > 4 ? h("span", { className: "run-sub", key: "more", title: tags.slice(4).join(", ") }, `+${tags.length - 4}`) : null));
  };
  cells.GradhelmProgress = ({ data }) => {
    const share = data.total_steps && data.last_step !== null ? (data.last_step + 1) / data.total_steps : null;
    const title = data.last_step === null ? null
      : `At step ${write().count(data.last_step)}${data.total_steps ? ` of ${write().count(data.total_steps)}` : ""}; ${write().count(data.steps)} recorded`;
    return h("span", { className: "bar-cell", title },
      h("span", { className: "num steps-number" }, data.last_step === null ? "no step yet" : write().count(data.steps)),
      share === null ? null : bar(share, data.status === "live" ? "accent" : "still"));
  };
  cells.GradhelmNorm = ({ data }) =>
    data.last_step !== null && data.norm_finite === false
      ? h("span", { className: "num bad-text" }, "NaN/Inf")
      : h("span", { className: "num" }, write().norm(data.global_norm));
  cells.GradhelmThreshold = ({ value }) => h("span", { className: "num" }, write().threshold(value));
  cells.GradhelmClip = ({ value }) =>
    h("span", { className: "bar-cell" },
      h("span", { className: "num clip-number" }, write().percent(value)), value ? bar(value, "clip") : null);
  cells.GradhelmNonfinite = ({ value }) =>
    value > 0
      ? h("span", { className: "num bad-text strong", title: `${write().count(value)} steps with a norm that is not finite` },
        symbol("triangle-alert"), ` ${write().count(value)}`)
      : h("span", { className: "num faint" }, write().count(value));
  cells.GradhelmAge = ({ data }) => {
    const ago = (time) => (time ? write().ago(Date.parse(time), Date.now()) : "–");
    const [word, time] = data.finished_at ? ["ended", data.finished_at] : ["heard", data.last_heard_at];
    const local = (at) => (at ? new Date(at).toLocaleString() : "never");
    return h("span", { className: "run-cell muted", title: `Began ${local(data.created_at)}, ${word} ${local(time)}` },
      h("time", { dateTime: data.created_at }, ago(data.created_at)),
      h("span", { className: "run-sub" }, `${word} ${ago(time)}`));
  };
  cells.GradhelmMenu = ({ data }) =>
    h("button", {
      type: "button", className: "tool row-menu", tabIndex: -1, title: "More", "aria-label": `More about ${data.name}`, "aria-haspopup": "menu",
      onClick: ({ currentTarget }) => window.dispatchEvent(new CustomEvent("gradhelm:menu", { detail: { id: data.id, at: currentTarget } })),
    }, symbol("ellipsis"));

  cells.GradhelmSparkline = ({ value, data }) => {
    const points = value || [];
    const known = points.filter((v) => v !== null && v > 0);
    if (known.length < 2) return h("span", { className: "faint" }, "–");
    // Logarithmic, as a norm is looked at; the middle nine tenths decide the range.
    const logs = known.map(Math.log10).sort((a, b) => a - b);
    const low = logs[Math.floor(logs.length * 0.02)];
    const high = Math.max(logs[logs.length - 1], low + 0.05);
    const [width, height] = [160, 28];
    let path = "";
    let pen = "M";
    points.forEach((v, i) => {
      if (v === null || !(v > 0)) {
        pen = "M";
        return;
      }
      const x = (i / (points.length - 1)) * width;
      const y = height - 3 - Math.max(0, Math.min(1, (Math.log10(v) - low) / (high - low))) * (height - 6);
      path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
    });
    return h("svg", { className: `spark ${data.status}`, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      h("path", { d: path, vectorEffect: "non-scaling-stroke" }));
  };
})();
