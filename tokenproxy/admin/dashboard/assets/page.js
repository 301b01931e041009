// What is open stays up to date: a stream says that something has changed, the page asks for itself again and takes over
// the parts that differ. Without this script a reload does the same.
"use strict";

const topic = document.body.dataset.page;
const liveness = document.getElementById("live");
const LOOK = 30000;

const local = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "medium" });
const tellTimes = (root) => {
  for (const time of root.querySelectorAll("time[title$=UTC]")) {
    const said = local.format(new Date(time.dateTime));
    if (time.textContent === time.title) time.textContent = said;
    time.title = `${said} (${time.title})`;
  }
};

const regions = (root) => [...root.querySelectorAll("[data-live]")];

// Keep what is the same, so that focus, selection and what is unfolded stay where they are.
const take = (old, fresh) => {
  const known = new Map([...old.children].filter((each) => each.id).map((each) => [each.id, each]));
  if (!known.size || ![...fresh.children].every((each) => each.id)) {
    old.replaceChildren(...fresh.childNodes);
  } else {
    old.replaceChildren(...[...fresh.children].map((each) => {
      const before = known.get(each.id);
      return before && before.outerHTML === each.outerHTML ? before : each;
    }));
  }
  for (const name of old.getAttributeNames()) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const name of fresh.getAttributeNames()) old.setAttribute(name, fresh.getAttribute(name));
};

// Where the focus is, as a way to find it again in what comes.
const place = (element) => {
  if (!element || element === document.body) return "";
  if (element.id) return `#${CSS.escape(element.id)}`;
  const href = element.getAttribute("href");
  return href ? `${element.localName}[href="${CSS.escape(href)}"]` : "";
};

const busy = () => {
  const element = document.activeElement;
  return element instanceof HTMLInputElement && element.closest("[data-live]") && element.value !== "";
};

const refresh = async () => {
  const answer = await fetch(location.href, {
    headers: { "Tokenproxy-Live": "1" }, redirect: "manual", cache: "no-store",
  });
  if (answer.type === "opaqueredirect") { location.reload(); return; }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const here = regions(document), there = regions(page);
  if (page.body.dataset.page !== topic || here.map((each) => each.id).join() !== there.map((each) => each.id).join()) {
    if (answer.ok) location.reload();
    return;
  }
  if (busy()) return;
  tellTimes(page);
  const focus = place(document.activeElement);
  const open = [...document.querySelectorAll("[data-live] details[open]")].map((each) => each.id);
  const pairs = here.map((old, index) => [old, there[index]]).filter(([old, fresh]) => old.outerHTML !== fresh.outerHTML);
  for (const [old, fresh] of pairs) take(old, fresh);
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (focus && document.activeElement === document.body) document.querySelector(focus)?.focus({ preventScroll: true });
};

let asking = null, again = false;
const news = () => {
  if (document.hidden) { again = true; return; }
  if (asking) { again = true; return; }
  asking = refresh().catch(() => say("not connected")).finally(() => {
    asking = null;
    if (again) { again = false; setTimeout(news, 500); }
  });
};
const say = (words) => { if (liveness) liveness.textContent = words; };

let stream = null;
const listen = () => {
  stream = new EventSource(`/events?page=${encodeURIComponent(topic)}`);
  stream.addEventListener("hello", () => { say("live"); });
  stream.addEventListener("change", news);
  stream.addEventListener("tick", news);
  stream.addEventListener("error", () => {
    say("not connected");
    if (stream.readyState === EventSource.CLOSED) {
      news();
      setTimeout(listen, LOOK);
    }
  });
};

tellTimes(document);
if (topic) {
  listen();
  document.addEventListener("visibilitychange", () => { if (!document.hidden && again) { again = false; news(); } });
  addEventListener("pagehide", () => stream?.close());
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}
