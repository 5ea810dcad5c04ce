"use strict";
// The page can be read without this script, which adds sorting, enlarging, browsing and the mark in the contents.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function button(label, action, attributes = {}) {
  const element = make("button", { type: "button", ...attributes }, ...[label].flat());
  element.addEventListener("click", action);
  return element;
}

// --- tables: a click sorts up, the next one down, the third restores the order; empty cells stay last ---

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], rows = [...body.rows];
  if (rows.length < 2) return;
  const valueOf = (row, column) => {
    const { dataset, textContent } = row.cells[column];
    const text = textContent.trim();
    return dataset.value === undefined ? text : dataset.value && Number(dataset.value);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  heads.forEach((head, column) => {
    const sort = () => {
      const order = { none: "ascending", ascending: "descending", descending: "none" }[head.ariaSort ?? "none"];
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      const sorted = order === "none" ? rows : rows.slice().sort((first, second) => {
        const a = valueOf(first, column), b = valueOf(second, column);
        return (a === "") - (b === "") || sign * compare(a, b);
      });
      body.append(...sorted);
    };
    head.append(button([...head.childNodes], sort, { class: "sort" }));
  });
}

// --- pictures: each opens in a dialog, in which arrow keys go to its neighbours; Escape closes it ---

const stage = make("div", { class: "stage" }), words = make("p", { "aria-live": "polite" });
const dialog = make("dialog", { class: "zoom", "aria-label": "Enlarged picture" },
  make("div", { class: "bar" }, words,
    button("Previous", () => step(-1)), button("Next", () => step(1)),
    button("Close", () => dialog.close(), { autofocus: "" })),
  stage);
let neighbours = [], shown = 0;

function show(index) {
  shown = (index + neighbours.length) % neighbours.length;
  const picture = neighbours[shown].firstElementChild;
  const numbers = picture.closest(".row")?.querySelector(".numbers")?.textContent;
  stage.replaceChildren(picture.cloneNode(true));
  words.textContent = [picture.alt ?? picture.ariaLabel, numbers].filter(Boolean).join(". ");
}

const step = (by) => show(shown + by);

function enlargeable(picture) {
  const name = picture.alt ?? picture.ariaLabel;
  const open = () => {
    const group = opener.closest(".rows, .panels");
    neighbours = [...group.querySelectorAll(".enlarge")].filter((other) => other.offsetParent);
    show(neighbours.indexOf(opener));
    dialog.showModal();
  };
  const opener = button([], open, { class: "enlarge", "aria-label": `Enlarge: ${name}` });
  picture.replaceWith(opener);
  opener.append(picture);
}

// --- samples: one prompt at a time, under all settings or one ---

function browsable(figure) {
  const groups = [...figure.querySelectorAll(":scope > details")];
  const settings = [...new Set([...figure.querySelectorAll(".row")].map((row) => row.dataset.setting))];
  const prompt = make("select", {}, ...groups.map((group, number) =>
    make("option", { value: number }, `${number + 1}. ${group.firstElementChild.textContent}`)));
  const setting = make("select", {}, make("option", { value: "" }, "all"),
    ...settings.map((name) => make("option", { value: name }, name)));
  const update = () => {
    groups.forEach((group, number) => { group.hidden = number !== prompt.selectedIndex; });
    const group = groups[prompt.selectedIndex];
    group.open = true;
    for (const row of group.querySelectorAll(".row")) {
      row.hidden = setting.value !== "" && row.dataset.setting !== setting.value;
    }
  };
  const turn = (by) => {
    prompt.selectedIndex = (prompt.selectedIndex + by + groups.length) % groups.length;
    update();
  };
  for (const choice of [prompt, setting]) choice.addEventListener("change", update);
  groups[0].before(make("div", { class: "tools", role: "group", "aria-label": `${figure.dataset.title}: samples shown` },
    button("Previous", () => turn(-1)), button("Next", () => turn(1)),
    make("label", {}, "Prompt ", prompt), make("label", {}, "Setting ", setting)));
  update();
}

// --- contents: the section in view is marked ---

function followed(links) {
  const linkOf = new Map(links.map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const link = linkOf.get(target.id);
      if (isIntersecting) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-25% 0px -74% 0px" });
  for (const section of document.querySelectorAll("main > section")) observer.observe(section);
}

document.querySelectorAll("table").forEach(sortable);
document.querySelectorAll(".panel > .chart, .row > img").forEach(enlargeable);
document.querySelectorAll(".browse").forEach(browsable);
followed([...document.querySelectorAll("nav a")]);
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) step(by);
});
document.body.append(dialog);
