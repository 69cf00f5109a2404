// The page asks for a one-time address with the caller's token and connects there. The token comes from the form, or
// from the part of the address behind '#', which no server is sent; it stays in this tab, so that a reload works.
"use strict";

const KEY = "polyvisor.token";
const vmId = new URLSearchParams(location.search).get("vmId") || "";
const state = document.getElementById("state");
const ask = document.getElementById("ask");
const terminal = new Terminal({ cols: 80, rows: 24, cursorBlink: false });
let socket = null;

function say(text) {
  state.textContent = text;
}

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY);
}

function wantToken(why) {
  sessionStorage.removeItem(KEY);
  say(why);
  ask.hidden = false;
  document.getElementById("token").focus();
}

async function addressOf(token) {
  const answer = await fetch("/api/vm.terminal?" + new URLSearchParams({ vmId }), {
    headers: { Authorization: "Bearer " + token },
    cache: "no-store",
  });
  const body = await answer.json();
  if (!answer.ok) {
    const failed = new Error(body.error.message);
    failed.status = answer.status;
    throw failed;
  }
  const found = new URL(body.result.data.url);
  found.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  found.host = location.host;
  return found;
}

function sendSize() {
  if (socket && socket.readyState === WebSocket.OPEN) {
    socket.send(JSON.stringify({ type: "resize", cols: terminal.cols, rows: terminal.rows }));
  }
}

async function connect(token) {
  say("Connecting to " + vmId);
  let address;
  try {
    address = await addressOf(token);
  } catch (error) {
    if (error.status === 401) {
      wantToken("The token is not valid.");
    } else {
      say(error.message);
    }
    return;
  }
  const decoder = new TextDecoder();
  const encoder = new TextEncoder();
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    say("Connected to " + vmId);
    terminal.fit();
    sendSize();
    terminal.focus();
  };
  socket.onmessage = (event) => terminal.write(decoder.decode(event.data, { stream: true }));
  socket.onclose = (event) => say("The connection is closed. " + event.reason);
  terminal.on("data", (data) => socket.send(encoder.encode(data)));
}

Terminal.applyAddon(fit);
terminal.open(document.getElementById("screen"));
terminal.fit();
terminal.on("resize", sendSize);
window.addEventListener("resize", () => terminal.fit());
window.terminal = terminal; // for whoever looks at it from outside

ask.addEventListener("submit", (event) => {
  event.preventDefault();
  ask.hidden = true;
  const token = document.getElementById("token").value.trim();
  sessionStorage.setItem(KEY, token);
  connect(token);
});

const token = takeToken();
if (token) {
  connect(token);
} else {
  wantToken("A token is needed.");
}
