// Copies what an element shows, and says whether it could.

/** `label`: the element with the word on the button. A browser that does not let a page copy gets it selected. */
export async function copyFrom(element, label) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    label.textContent = "Copied";
  } catch {
    label.textContent = "Select and copy";
    getSelection().selectAllChildren(element);
  }
}
