// Pages that are opened from a folder have no workers: the script of the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const scope = frame.contentWindow;
      const handlers = [];
      scope.addEventListener = (kind, handler) => kind === "message" && handlers.push(handler);
      scope.postMessage = (data) => this.tell(data);
      scope.importScripts = (...urls) => urls.reduce(
        (before, one) => before.then(() => load(frame.contentDocument, one)), Promise.resolve());
      this.ready = load(frame.contentDocument, url);
      this.handlers = handlers;
      this.scope = scope;
    }
    postMessage(data) {
      this.ready.then(() => {
        const event = new MessageEvent("message", { data });
        this.handlers.forEach((handler) => handler.call(this.scope, event));
        if (this.scope.onmessage) this.scope.onmessage(event);
      });
    }
    tell(data) {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    }
    terminate() {
      this.handlers.length = 0;
    }
  };
  const load = (page, url) => new Promise((done, failed) => {
    const script = page.createElement("script");
    Object.assign(script, { src: url, onload: done, onerror: failed });
    page.head.append(script);
  });
}
