// What the login page's address says: a one-time code, an error, and where one wanted to go. Pure.

/** A code is 32 of these; something shorter is a part of the page one was on the way to. */
const CODE = /^[\w-]{20,}$/;
const LONGEST_ERROR = 300;

/** `hash` as location has it: {code}, {error} or {anchor}, of which others are "". */
export function readHash(hash) {
  const text = hash.slice(1);
  const found = { code: "", error: "", anchor: "" };
  if (text.startsWith("error=")) found.error = plain(text.slice("error=".length)).slice(0, LONGEST_ERROR);
  else if (CODE.test(text)) found.code = text;
  else found.anchor = hash;
  return found;
}

/** Text from an address, which anybody may have written: without what would not be text. */
function plain(text) {
  try {
    return decodeURIComponent(text.replaceAll("+", " ")).replace(/\p{C}/gu, " ").trim();
  } catch {
    return "";
  }
}

/**
 * Where to go after signing in, "" when the address does not say: a path of this server and nothing
 * else. Two slashes, or a backslash, which browsers take for one, would lead to another server, and
 * browsers drop tabs and line ends.
 */
export function readNext(search, anchor = "") {
  const next = new URLSearchParams(search).get("next") ?? "";
  // eslint-disable-next-line no-control-regex
  if (!/^\/(?![/\\])[^\\\u0000-\u001f]*$/.test(next) || /^\/login(?![^/?#])/.test(next)) return "";
  return next.includes("#") ? next : next + anchor;
}

/** How long to wait, in words: "2 minutes and 5 seconds". */
export function waiting(seconds) {
  const said = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const [minutes, rest] = [Math.floor(seconds / 60), seconds % 60];
  if (!minutes) return said(rest, "second");
  return rest ? `${said(minutes, "minute")} and ${said(rest, "second")}` : said(minutes, "minute");
}
