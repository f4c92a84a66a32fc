import { $ } from "/static/dom.js";

// One stream while the page is visible: a browser keeps few connections to one server, and background
// tabs must not use them up.
let stream = null;

function say(state, text) {
  $("live").className = `live ${state}`;
  $("live").textContent = text;
}

// Calls `look` at once whenever the stream begins, and then with the ids that have changed.
export function follow(look) {
  function open() {
    if (stream || document.hidden) return;
    stream = new EventSource("/events");
    stream.addEventListener("on", () => {
      say("on", "live");
      look(null);
    });
    stream.addEventListener("message", (event) => look(JSON.parse(event.data).changed));
    stream.addEventListener("error", () => {
      say("off", "not connected");
      // A refused stream is opened again later, as after a lost connection.
      if (stream && stream.readyState === EventSource.CLOSED) {
        close();
        setTimeout(open, 2000);
      }
    });
  }
  function close() {
    stream?.close();
    stream = null;
  }
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
}

// Returns a function that runs `work` now or as soon as `pause` milliseconds have passed since its last
// end, once however often it is asked for in between. Long work has longer pauses.
export function paced(pause, work) {
  let busy = false;
  let again = false;
  return async function ask() {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    const began = performance.now();
    try {
      await work();
    } finally {
      const wait = Math.max(pause, 3 * (performance.now() - began));
      setTimeout(() => {
        busy = false;
        if (again) {
          again = false;
          ask();
        }
      }, wait);
    }
  };
}
