"use strict";
const at = (id) => document.getElementById(id);
const session = document.body.dataset.session;
const here = `/s/${session}`;

function tell(text) {
  at("told").textContent = text;
  at("told").hidden = !text;
  if (text) at("told").scrollIntoView({ block: "nearest" });
}

// The answer of an address; what it refuses is told on the page.
async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, { method: "POST", ...options });
  } catch {
    tell("safezone serve does not answer; look at its terminal, or start it again");
    return null;
  }
  let value = {};
  try {
    value = await answer.json();
  } catch {
    value = { error: "safezone serve failed; its terminal says why" };
  }
  if (!answer.ok) {
    tell(value.error);
    return null;
  }
  if (value.go) location.assign(value.go);
  return value;
}

const send = (address, value) => ask(address, { body: JSON.stringify(value) });

// What is told without sending anything: the server says the same.
function refused(form) {
  let sum = 0;
  for (const input of form.querySelectorAll("input[type=file]")) {
    if (input.files.length > form.dataset.images)
      return `there are ${input.files.length} files; give at most ${form.dataset.images}`;
    for (const file of input.files) {
      sum += file.size;
      if (file.size > form.dataset.bytes) return `${file.name} is too large; make it smaller`;
    }
  }
  return sum > form.dataset.sent ? "these files are too large together; send fewer" : "";
}

function onSubmit(id, act) {
  at(id)?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const buttons = [...document.querySelectorAll("button")].filter((each) => each.form === event.target);
    buttons.forEach((each) => (each.disabled = true));
    tell("");
    await act(event.target);
    buttons.forEach((each) => (each.disabled = false));
  });
}

onSubmit("new", async (form) => {
  const why = refused(form);
  if (why) return tell(why);
  await ask("/new", { body: new FormData(form) });
});
onSubmit("example", (form) => send("/example", { concept: form.elements.concept.value }));
onSubmit("choices", async (form) => {
  const data = new FormData(form);
  const choices = { model: data.get("model"), methods: data.getAll("methods"), suite: data.get("suite") };
  if (data.has("poison")) Object.assign(choices, { poison: data.get("poison"), level: Number(data.get("level")) });
  if (await send(`${here}/start`, choices)) await look();
});

const WORDS = {
  ready: () => "Not started",
  running: (told) => `At work: ${told.doing}${told.left ? `, about ${told.left} left` : ""}`,
  stopped: () => "Stopped; it goes on where it was",
  failed: (told) => `It stopped: ${told.sentence}`,
  done: () => "Done",
};
let before = "";
let lost = false;

async function look() {
  const told = await ask(`${here}/state`, { method: "GET" });
  if (!told && before === "running") setTimeout(look, 5000); // it may answer again
  if (told && lost) tell("");
  lost = !told;
  if (!told) return;
  const running = told.state === "running";
  document.body.dataset.state = told.state;
  at("state").textContent = WORDS[told.state](told);
  at("share").value = told.state === "done" ? 1 : told.share;
  if (running && told.left === null) at("share").removeAttribute("value"); // how far cannot be told
  at("start").textContent = told.state === "ready" ? "Start" : told.state === "done" ? "Again" : "Go on";
  at("start").hidden = running;
  at("stop").hidden = !running;
  for (const part of [at("choices"), at("find"), at("remove")]) part.inert = running;
  if (told.state !== before) {
    at("verdict").hidden = told.state !== "done";
    at("verdicts").replaceChildren(
      ...told.verdicts.map((text) => Object.assign(document.createElement("p"), { className: "verdict", textContent: text })),
    );
    if (told.state === "done") at("page").src = `${here}/report`;
    if (before) showMasks(told.masks);
  }
  if (!before) showMasks(told.masks);
  before = told.state;
  if (running) setTimeout(look, 700);
}

function showMasks(made) {
  document.querySelectorAll(".picture").forEach((button, index) => {
    const image = button.querySelector(".mask");
    image.hidden = !made[index];
    if (made[index]) image.src = `${here}/mask/${index}?${Date.now()}`;
    document.querySelectorAll(".unmask")[index].hidden = !made[index];
  });
}

async function masksAgain() {
  const told = await ask(`${here}/state`, { method: "GET" });
  if (told) showMasks(told.masks);
}

// Painting: the picture, and over it the mask as a canvas whose opaque pixels are the object.
const mask = document.createElement("canvas");
let picture = null;
let painted = 0;
let last = null;

function loaded(address) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = failed;
    image.src = address;
  });
}

function draw() {
  const context = at("canvas").getContext("2d");
  context.globalAlpha = 1;
  context.drawImage(picture, 0, 0);
  context.globalAlpha = 0.5;
  context.drawImage(mask, 0, 0);
}

async function paint(index) {
  tell("");
  painted = index;
  picture = document.querySelectorAll(".picture img:first-child")[index];
  const kept = await loaded(`${here}/mask/${index}?${Date.now()}`);
  for (const canvas of [at("canvas"), mask]) {
    canvas.width = kept.naturalWidth;
    canvas.height = kept.naturalHeight;
  }
  const context = mask.getContext("2d");
  context.drawImage(kept, 0, 0);
  const pixels = context.getImageData(0, 0, mask.width, mask.height);
  for (let i = 0; i < pixels.data.length; i += 4)
    pixels.data.set([255, 0, 200, pixels.data[i] >= 128 ? 255 : 0], i);
  context.putImageData(pixels, 0, 0);
  draw();
  at("painting").showModal();
}

function stroke(event) {
  const canvas = at("canvas");
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  const point = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  const context = mask.getContext("2d");
  const tool = document.querySelector("input[name=tool]:checked").value;
  context.globalCompositeOperation = tool === "erase" ? "destination-out" : "source-over";
  context.strokeStyle = "rgb(255, 0, 200)";
  context.lineWidth = at("brush").value * scale;
  context.lineCap = "round";
  context.beginPath();
  context.moveTo(...(last ?? point));
  context.lineTo(...point);
  context.stroke();
  last = point;
  draw();
}

async function keep() {
  const pixels = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height);
  for (let i = 0; i < pixels.data.length; i += 4)
    pixels.data.fill(pixels.data[i + 3] >= 128 ? 255 : 0, i, i + 3).fill(255, i + 3, i + 4);
  const flat = Object.assign(document.createElement("canvas"), { width: mask.width, height: mask.height });
  flat.getContext("2d").putImageData(pixels, 0, 0);
  const png = await new Promise((done) => flat.toBlob(done, "image/png"));
  const kept = await ask(`${here}/mask/${painted}`, { method: "PUT", body: png });
  at("painting").close();
  if (kept) await masksAgain();
}

if (session) {
  document.querySelectorAll(".picture").forEach((button, index) => button.addEventListener("click", () => paint(index)));
  document.querySelectorAll(".unmask").forEach((button, index) =>
    button.addEventListener("click", async () => {
      tell("");
      if (await ask(`${here}/mask/${index}`, { method: "DELETE" })) await masksAgain();
    }),
  );
  at("canvas").addEventListener("pointerdown", (event) => {
    at("canvas").setPointerCapture(event.pointerId);
    last = null;
    stroke(event);
  });
  at("canvas").addEventListener("pointermove", (event) => event.buttons && stroke(event));
  at("clear").addEventListener("click", () => {
    mask.getContext("2d").clearRect(0, 0, mask.width, mask.height);
    draw();
  });
  at("keep").addEventListener("click", keep);
  at("cancel").addEventListener("click", () => at("painting").close());
  at("find").addEventListener("click", async (event) => {
    event.target.disabled = true;
    tell("");
    const found = await ask(`${here}/masks`);
    if (found) {
      tell(found.told.join("\n"));
      await masksAgain();
    }
    event.target.disabled = false;
  });
  at("stop").addEventListener("click", async () => {
    if (await ask(`${here}/stop`)) await look();
  });
  at("remove").addEventListener("click", (event) => {
    if (event.target.dataset.sure) ask(`${here}/remove`);
    event.target.dataset.sure = "yes";
    event.target.textContent = "Remove the pictures and all that was made of them?";
  });
  look();
}
