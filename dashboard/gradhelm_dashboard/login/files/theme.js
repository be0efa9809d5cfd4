// Before the first paint, as a plain script: the colours that were chosen on the page, if any were.

try {
  const chosen = localStorage.getItem("mantine-color-scheme-value");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.scheme = chosen;
} catch {
  // A browser that keeps nothing: the system's colours.
}
