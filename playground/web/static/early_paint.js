// Shows the page that the server's first paint has covered until now (web/early_paint.py).
export const showPage = () => document.getElementById("vp-early")?.remove();
