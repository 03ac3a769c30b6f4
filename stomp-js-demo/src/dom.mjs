// The little of a framework that this page needs. Text only ever becomes text, never HTML.

export const byId = (id) => document.getElementById(id);

/** h("li", { class: "x", testid: "y" }, "text", node): attributes as given, null is left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    element.setAttribute(name === "testid" ? "data-testid" : name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/**
 * Makes the children of `parent` show `items`, touching only what is new, changed or gone: focus
 * stays where it is and a screen reader hears new messages alone.
 */
export function syncList(parent, items, keyOf, create, fingerprint = keyOf) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    const print = String(fingerprint(item));
    let child = old.get(key);
    old.delete(key);
    if (!child || child.dataset.print !== print) {
      const fresh = create(item);
      fresh.dataset.key = key;
      fresh.dataset.print = print;
      if (child) {
        if (place === child) place = fresh;
        child.replaceWith(fresh);
      } else parent.insertBefore(fresh, place);
      child = fresh;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of old.values()) child.remove();
}

/** Sets text only where it differs, so that live regions speak of changes alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A colour that is the same for the same name everywhere; a class, since CSP forbids inline styles. */
export function hue(name) {
  let sum = 0;
  for (const char of name) sum = (sum * 19 + char.codePointAt(0)) % 997;
  return `hue-${sum % 7}`;
}

/** Two letters tell alice from admin. */
export function initials(name) {
  const [first = "?", second = ""] = [...name];
  return first.toUpperCase() + second;
}
