import { inspect, load } from "../../reader/js/hemp.js";
import { likeMnist, network, softmax } from "./lenet5.js";

const at = (id) => document.getElementById(id);
const drawing = at("drawing");
const pen = drawing.getContext("2d", { willReadFrequently: true });
const count = (number) => number.toLocaleString("en-US");

const file = await (await fetch(at("file").href)).arrayBuffer();
const start = performance.now();
const tensors = load(file);
const decoded = performance.now() - start;
const recognise = network(tensors);
describe();
clear();

/** The figures of the page, from the file itself. */
function describe() {
  const weights = inspect(file).tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  at("size").textContent = `${count(file.byteLength)} bytes`;
  at("times").textContent = count(Math.round((4 * weights) / file.byteLength));
  at("bytes").textContent = btoa(String.fromCharCode(...new Uint8Array(file)));
  for (let digit = 0; digit < 10; digit++) {
    const row = document.createElement("li");
    row.innerHTML = `<span>${digit}</span><i></i><b></b>`;
    at("bars").append(row);
  }
}

/** The ink of the drawing, from 0 to 1. */
function ink() {
  const { data } = pen.getImageData(0, 0, drawing.width, drawing.height);
  return Float32Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + 3] / 255);
}

function look() {
  const image = likeMnist(ink(), drawing.width);
  if (image === null) return;
  const start = performance.now();
  const chances = softmax(recognise(image));
  const took = performance.now() - start;
  const best = chances.indexOf(Math.max(...chances));
  at("digit").textContent = best;
  [...at("bars").children].forEach((row, digit) => {
    row.classList.toggle("best", digit === best);
    row.children[1].style.width = `${100 * chances[digit]}%`;
    row.children[2].textContent = `${(100 * chances[digit]).toFixed(1)} %`;
  });
  at("facts").textContent = `Decoded in ${decoded.toFixed(0)} ms, recognised in ${took.toFixed(0)} ms, in this page.`;
  showSeen(image);
}

function showSeen(image) {
  const seen = at("seen").getContext("2d");
  const pixels = seen.createImageData(28, 28);
  image.forEach((value, i) => pixels.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i));
  seen.putImageData(pixels, 0, 0);
}

function clear() {
  pen.clearRect(0, 0, drawing.width, drawing.height);
  pen.lineWidth = drawing.width / 13;
  pen.lineCap = pen.lineJoin = "round";
  pen.strokeStyle = getComputedStyle(document.body).color;
  at("hint").style.display = "";
  at("digit").textContent = "\u00a0";
  at("facts").textContent = `Decoded in ${decoded.toFixed(0)} ms, in this page.`;
  for (const row of at("bars").children) {
    row.classList.remove("best");
    row.children[1].style.width = "0";
    row.children[2].textContent = "";
  }
  at("seen").getContext("2d").clearRect(0, 0, 28, 28);
}

let last = null; // where the pen was, while it is down

function place(event) {
  const box = drawing.getBoundingClientRect();
  const scale = drawing.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function draw(event) {
  const points = event.getCoalescedEvents?.() ?? [];
  for (const point of points.length > 0 ? points : [event]) {
    const next = place(point);
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...next);
    pen.stroke();
    last = next;
  }
}

drawing.addEventListener("pointerdown", (event) => {
  drawing.setPointerCapture(event.pointerId);
  at("hint").style.display = "none";
  last = place(event);
  draw(event);
});
drawing.addEventListener("pointermove", (event) => {
  if (last === null) return;
  draw(event);
  look();
});
for (const end of ["pointerup", "pointercancel"]) {
  drawing.addEventListener(end, () => {
    if (last === null) return;
    last = null;
    look();
  });
}
at("clear").addEventListener("click", clear);
document.body.dataset.ready = "yes";
