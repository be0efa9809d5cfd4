// Which browser it is, by what it says of itself. Pure.

/** The first that fits counts: browsers call themselves by each other's names. */
const BROWSERS = [
  ["Edge", /\bEdg(?:e|A|iOS)?\/(\d+)/],
  ["Opera", /\bOPR\/(\d+)/],
  ["Samsung Internet", /\bSamsungBrowser\/(\d+)/],
  ["Firefox", /\b(?:Firefox|FxiOS)\/(\d+)/],
  ["Chrome", /\b(?:HeadlessChrome|Chrome|CriOS|Chromium)\/(\d+)/],
  ["Safari", /\bVersion\/(\d+)[\d.]* (?:Mobile\/\S+ )?Safari\//],
];
const SYSTEMS = [
  ["iPhone", /\biPhone\b/],
  ["iPad", /\biPad\b/],
  ["Android", /\bAndroid\b/],
  ["Windows", /\bWindows\b/],
  ["ChromeOS", /\bCrOS\b/],
  ["macOS", /\bMac(?:intosh| OS X)\b/],
  ["Linux", /\b(?:Linux|X11)\b/],
];

/** "Firefox 128 on Linux" from a User-Agent header; of a program, its own first word. */
export function browser(agent) {
  const text = agent ?? "";
  const system = SYSTEMS.find(([, mark]) => mark.test(text))?.[0];
  for (const [name, mark] of BROWSERS) {
    const found = mark.exec(text);
    if (found) return `${name} ${found[1]}${system ? ` on ${system}` : ""}`;
  }
  const word = text.trim().split(/\s+/)[0].slice(0, 60);
  return word || "An unknown browser";
}
