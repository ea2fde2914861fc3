// The live view of a run: what the page holds of its curves and samples, and what it shows of its progress elsewhere.
Object.assign(window.ed, (() => {
  const nothing = () => ({ key: '', revisions: {}, panels: [], curves: {}, marks: {}, matrix: { rows: [], columns: [], layout: '' } });
  let held = nothing();
  const byId = id => document.getElementById(id);
  const isSeen = () => Boolean(byId('loss-chart')?.checkVisibility()) && !document.hidden;

  // The question of each tick: the answer brings what is missing, so nothing that got lost stays missing.
  const askLive = () => {
    const curves = Object.fromEntries(Object.entries(held.curves).map(([name, points]) => [name, [points.scale, points.steps.length]]));
    const samples = { columns: held.matrix.columns.length, layout: held.matrix.layout };
    return [JSON.stringify({ away: !isSeen(), key: held.key, revisions: held.revisions, curves, samples })];
  };
  const continued = (old, { from, ...news }) => Object.fromEntries(Object.entries(news).map(([name, values]) =>
    [name, Array.isArray(values) ? [...(old?.[name] ?? []).slice(0, from), ...values] : values]));
  const takeCharts = ({ panels, curves, samples, saves }) => {
    const taken = Object.entries(curves).map(([name, news]) => [name, continued(held.curves[name], news)]);
    Object.assign(held, { panels, curves: Object.fromEntries(taken), marks: { samples, saves } });
  };
  const takeSamples = ({ from, columns, ...rest }) => {
    held.matrix = { ...rest, columns: [...held.matrix.columns.slice(0, from), ...columns] };
  };
  const takeNews = element => {
    const carrier = element.querySelector('[data-news]');
    if (!carrier) return;
    const news = JSON.parse(carrier.dataset.news);
    if (news.key !== held.key) held = nothing();
    Object.assign(held, { key: news.key, revisions: news.revisions });
    if (news.charts) { takeCharts(news.charts); showCharts(); }
    if (news.samples) { takeSamples(news.samples); showSamples(); }
  };
  const watchNews = element => {
    new MutationObserver(() => takeNews(element)).observe(element, { childList: true, subtree: true, attributes: true });
    takeNews(element);
  };
  // The element to draw in. A run that has nothing to draw yet shows what stood there first, not the run before it.
  const placeholders = new Map();
  const placeOf = (selector, isEmpty) => {
    const root = document.querySelector(selector);
    if (root && !placeholders.has(selector)) placeholders.set(selector, root.cloneNode(true));
    if (root && isEmpty) root.replaceWith(placeholders.get(selector).cloneNode(true));
    return isEmpty ? null : root;
  };
  const showCharts = () => {
    const root = placeOf('#loss-chart .ed-charts', !Object.keys(held.curves).length);
    if (root) edCharts.show(root, { panels: held.panels, runs: [{ label: '', curves: held.curves, ...held.marks }] });
  };
  const showSamples = () => {
    const root = placeOf('#samples-matrix', !held.matrix.columns.length);
    if (root) edMatrix.show(root, held.matrix);
  };
  const watchLive = (element, trigger) => {
    showCharts();
    new IntersectionObserver(([seen]) => { if (seen.isIntersecting) trigger('submit'); }).observe(element);
  };
  const watchSamples = (element, trigger) => {
    showSamples();
    element.addEventListener('ed-use', event => trigger('click', { step: event.detail.step }));
  };
  const showUsedStep = () => requestAnimationFrame(() => byId('use-step')?.scrollIntoView({ block: 'nearest' }));

  // Progress in the title and the icon of the tab, and a notification at the end, which a browser allows once it was asked.
  const ACTIVE = ['preparing', 'training', 'sampling', 'paused', 'stopping'];
  const ENDS = { done: 'Training is done', stopped: 'Training was stopped', failed: 'Training failed' };
  const COLOURS = { paused: '#b45309', stopped: '#b45309', done: '#15803d', failed: '#b91c1c' };
  const ASKED = 'ed-asked-to-notify';
  const progress = { title: '', state: '', drawn: '' };
  const iconOf = (share, colour) => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 32, height: 32 }), pen = canvas.getContext('2d');
    pen.lineWidth = 7;
    for (const [style, part] of [['#94a3b8', 1], [colour, share]]) {
      pen.strokeStyle = style;
      pen.beginPath();
      pen.arc(16, 16, 12, -Math.PI / 2, (2 * part - 0.5) * Math.PI);
      pen.stroke();
    }
    return canvas.toDataURL();
  };
  const drawIcon = (share, colour) => {
    const wanted = `${share} ${colour}`;
    if (wanted === progress.drawn) return;
    progress.drawn = wanted;
    const old = [...document.querySelectorAll('link[rel~=icon]')], icon = document.createElement('link');
    Object.assign(icon, { rel: 'icon', href: iconOf(share / 100, colour) });
    document.head.append(icon);
    for (const other of old) other.remove();
  };
  const notify = (text, words) => {
    if (window.Notification?.permission !== 'granted') return;
    const shown = new Notification(text, { body: words, tag: 'ed-run' });
    shown.onclick = () => { window.focus(); shown.close(); };
  };
  const showProgress = () => {
    const status = byId('status');
    if (!status) return;
    const { state, step, total } = status.dataset, percent = Math.floor((100 * step) / Math.max(1, total));
    const isActive = ACTIVE.includes(state), before = progress.state;
    const title = isActive ? `${percent} % · ${progress.title}` : state in ENDS && before ? `${ENDS[state]} · ${progress.title}` : progress.title;
    if (document.title !== title) document.title = title;
    if (isActive || before) drawIcon(isActive ? percent : 100, COLOURS[state] ?? '#4338ca');
    if (ACTIVE.includes(before) && state in ENDS) notify(ENDS[state], status.querySelector('.ed-status-text').textContent);
    if (isActive || state in ENDS) progress.state = isActive || before ? state : '';
  };
  const askToNotify = () => {
    if (window.Notification?.permission !== 'default' || localStorage.getItem(ASKED)) return;
    localStorage.setItem(ASKED, 'yes');
    Notification.requestPermission();
  };
  const watchProgress = () => {
    progress.title = document.title;
    for (const name of ['train-button', 'continue-button', 'resume-model-button', 'start-demo-button']) document.addEventListener('click', event => {
      if (event.target.closest(`#${name}`)) askToNotify();
    }, true);
    const watched = byId('status').closest('.block') ?? byId('strip');
    new MutationObserver(showProgress).observe(watched, { childList: true, subtree: true, attributes: true });
    showProgress();
  };

  const watchAdviser = (element, trigger) => element.addEventListener('click', event => {
    if (event.target.closest('[data-validate]')) trigger('click');
  });

  return { watchProgress, watchAdviser, askLive, watchNews, watchLive, watchSamples, showUsedStep };
})());
