"use strict";
const part = id => document.getElementById(id);
const MANY = 12; // tasks, from which on a filter helps
let image = null; // {file, bitmap}; no bitmap where the browser cannot show what the service can read
let turn = 0; // answers to an older choice are thrown away

const say = (text, bad = false) => {
  part("status").textContent = text;
  part("status").classList.toggle("bad", bad);
};

async function asked(path, options) {
  const response = await fetch(path, options);
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const again = response.headers.get("Retry-After");
  throw new Error((body.detail || `the service answered ${response.status}`) + (again ? `; try again in ${again} s` : ""));
}

// Tasks

async function showTasks() {
  const { backbone, tasks } = await asked("v1/tasks");
  part("about").textContent = `One frozen backbone, ${backbone}; ${tasks.length} task${tasks.length === 1 ? "" : "s"}.`;
  part("filter").hidden = tasks.length <= MANY;
  part("task-list").replaceChildren(...tasks.map((task, i) => {
    const item = document.createElement("li"), label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: task.name, checked: i === 0 });
    const facts = Object.assign(document.createElement("small"), { textContent: `${task.num_classes} classes` });
    label.append(box, task.name, facts);
    item.append(label);
    return item;
  }));
}

const boxes = () => [...part("task-list").querySelectorAll("input")];

function check(value) {
  for (const box of boxes()) if (!box.closest("li").hidden) box.checked = value;
  answer();
}

part("filter").addEventListener("input", event => {
  const words = event.target.value.toLowerCase();
  for (const box of boxes()) box.closest("li").hidden = !box.value.toLowerCase().includes(words);
});
part("all").addEventListener("click", () => check(true));
part("none").addEventListener("click", () => check(false));
part("task-list").addEventListener("change", () => answer());
part("top-k").addEventListener("change", () => answer());
part("overlay").addEventListener("change", () => answer());
document.querySelector("form").addEventListener("submit", event => event.preventDefault());

// The image: dropped anywhere, pasted or chosen

async function take(file) {
  if (!file) return say("There was no image in it.", true);
  const chosen = new DataTransfer(); // so that the file field shows what was dropped or pasted, too
  chosen.items.add(file);
  part("file").files = chosen.files;
  const bitmap = await createImageBitmap(file).catch(() => null);
  image = { file, bitmap };
  part("drop-text").textContent = `${file.name || "pasted image"}: drop, paste or choose another`;
  answer();
}

const files = transfer => [...transfer.files];

for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, event => {
    event.preventDefault();
    part("drop").classList.add("over");
  });
}
addEventListener("dragleave", event => {
  if (!event.relatedTarget) part("drop").classList.remove("over");
});
addEventListener("drop", event => {
  event.preventDefault();
  part("drop").classList.remove("over");
  take(files(event.dataTransfer)[0]);
});
addEventListener("paste", event => {
  const pasted = files(event.clipboardData);
  if (!pasted.length && event.target.matches("input")) return;
  take(pasted.find(file => file.type.startsWith("image/")));
});
part("file").addEventListener("change", event => take(event.target.files[0]));

// Answers

async function answer() {
  const mine = ++turn, tasks = boxes().filter(box => box.checked).map(box => box.value);
  if (!image || !tasks.length) {
    part("answers").replaceChildren();
    return say(image ? "Choose at least one task." : "Choose an image and at least one task.");
  }
  say("Working …");
  const cards = [];
  for (const task of tasks) {
    try {
      cards.push(await card(task));
    } catch (error) {
      if (mine === turn) say(`${task}: ${error.message}`, true);
      return;
    }
    if (mine !== turn) return;
    part("answers").replaceChildren(...cards.map(one => one.node));
  }
  say(cards.map(one => `${one.task}: ${one.best}`).join("; "));
}

async function card(task) {
  const send = (what, query = "") => asked(`v1/tasks/${encodeURIComponent(task)}/${what}${query}`, {
    method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: image.file,
  });
  const topK = Math.max(1, Math.min(20, Math.round(Number(part("top-k").value)) || 5));
  const { predictions: [{ top }] } = await send("predict", `?top_k=${topK}`);
  const node = part("answer").content.cloneNode(true).firstElementChild;
  node.querySelector("h3").textContent = task;
  node.querySelector("ol").replaceChildren(...top.map(bar));
  const wanted = part("overlay").checked && image.bitmap;
  picture(node, wanted ? await send("attention").catch(error => ({ problem: error.message })) : null);
  return { task, node, best: `${top[0].class} ${percent(top[0].probability)}` };
}

const percent = share => `${(100 * share).toFixed(1)} %`;

function bar({ class: name, probability }) {
  const item = document.createElement("li"), length = document.createElement("i");
  length.style.width = `${100 * probability}%`;
  const [label, value] = [name, percent(probability)].map(text => Object.assign(document.createElement("span"), { textContent: text }));
  item.append(length, label, value);
  return item;
}

function picture(node, attention) {
  const canvas = node.querySelector("canvas"), caption = node.querySelector("figcaption"), { bitmap } = image;
  if (!bitmap) {
    canvas.remove();
    caption.textContent = "This browser cannot show the image; the service could read it.";
    return;
  }
  const scale = Math.min(4, 512 / Math.max(bitmap.width, bitmap.height)), pen = canvas.getContext("2d");
  canvas.width = Math.max(1, Math.round(scale * bitmap.width));
  canvas.height = Math.max(1, Math.round(scale * bitmap.height));
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", "The image");
  if (attention?.problem) caption.textContent = `No overlay: ${attention.problem}`;
  else if (attention) overlay(canvas, pen, caption, attention);
}

// What the model did not see is dark; over the rest lies its attention, from nothing to the strongest patch.
function overlay(canvas, pen, caption, { asked_by: who, maps: [{ weights, box }] }) {
  const [left, top, right, bottom] = box.map((side, i) => side * (i % 2 ? canvas.height : canvas.width));
  const rows = weights.length, columns = weights[0].length, flat = weights.flat();
  const most = Math.max(...flat) || 1, heat = new ImageData(columns, rows);
  flat.forEach((weight, i) => heat.data.set([255, 80, 0, Math.round(160 * weight / most)], 4 * i));
  const small = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  small.getContext("2d").putImageData(heat, 0, 0);
  pen.fillStyle = "rgba(0, 0, 0, .6)";
  pen.beginPath();
  pen.rect(0, 0, canvas.width, canvas.height);
  pen.rect(left, top, right - left, bottom - top);
  pen.fill("evenodd");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, left, top, right - left, bottom - top);
  const strongest = flat.indexOf(Math.max(...flat));
  const where = `row ${Math.floor(strongest / columns) + 1} of ${rows}, column ${strongest % columns + 1} of ${columns}`;
  canvas.setAttribute("aria-label", `The image with the model's attention over it; strongest at ${where}`);
  caption.textContent = `Orange: where the ${who} looked in the last block; dark: outside of what the model saw.`;
}

showTasks().catch(error => say(`The tasks could not be read: ${error.message}`, true));
