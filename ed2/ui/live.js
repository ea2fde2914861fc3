// The live view of a run: what the page holds of its curves and samples, and what it shows of its progress elsewhere.
Object.assign(window.ed, (() => {
  const nothing = () => ({ key: '', revisions: {}, panels: [], curves: {}, marks: {}, matrix: { rows: [], columns: [], layout: '' } });
  let held = nothing();
  const byId = id => document.getElementById(id);
  const charts = () => document.querySelector('#loss-chart .ed-charts');
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
  const showCharts = () => {
    const root = charts();
    if (!root || !Object.keys(held.curves).length) return;
    edCharts.show(root, { panels: held.panels, runs: [{ label: '', curves: held.curves, ...held.marks }] });
  };
  const showSamples = () => {
    const root = byId('samples-matrix');
    if (root && held.matrix.columns.length) edMatrix.show(root, held.matrix);
  };
  const watchLive = (element, trigger) => {
    showCharts();
    new IntersectionObserver(([seen]) => { if (seen.isIntersecting) trigger('submit'); }).observe(element);
  };
  const watchSamples = () => showSamples();

  return { askLive, watchNews, watchLive, watchSamples };
})());
