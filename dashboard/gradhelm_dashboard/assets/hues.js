// The colours of runs that are compared. Pure.
//
// Eight that can be told apart, and from the ground, by every kind of colour vision; found by a
// search that began at the eight of Okabe and Ito (Color Universal Design, 2008). A letter goes
// with each all the same.

const HUES = {
  dark: ["#8bc7d0", "#f0a710", "#a484d9", "#28977e", "#eb4007", "#fce686", "#6b62a3", "#b5fdfe"],
  light: ["#508eff", "#a08f0e", "#e358b9", "#205f6a", "#b2645a", "#7f5602", "#342566", "#150911"],
};

export const MOST_RUNS = HUES.dark.length;
export const hue = (slot, theme) => HUES[theme][slot % MOST_RUNS];
/** What is written on a ground of that colour. */
export const ink = (slot, theme) => (theme === "dark" ? "#0b0d12" : "#ffffff");
export const letter = (slot) => String.fromCharCode(65 + slot);
