// Charts of one run or of several, drawn as SVG from points that the program has thinned. Needs nothing else of the page,
// so that a report can hold it too. `edCharts.show(element, {panels, runs})` draws; see `ed2/ui/charts.py` for the data.
window.edCharts = (() => {
  const EDGE = { left: 56, right: 10, top: 8, bottom: 22 };
  const RANGES = { 'Whole run': 1, 'Last half': 0.5, 'Last tenth': 0.1 };
  const SMOOTHING = 0.9;
  const MIN_DRAG = 6; // pixels
  const MARK_DISTANCE = 8; // pixels
  const LOOKS = 8;
  let number = 0;
  const roots = new WeakMap();

  const escape = text => String(text).replace(/[&<>"']/g, sign => `&#${sign.charCodeAt(0)};`);
  const shown = (value, digits = 3) => {
    if (value === undefined || value === null) return '–';
    const size = Math.abs(value);
    if (size && (size < 1e-3 || size >= 1e6)) return Number(value.toPrecision(digits)).toExponential();
    return String(Number(value.toPrecision(size >= 1000 ? 6 : 4)));
  };
  const steps = step => Math.round(step).toLocaleString('en');

  // The moving average, divided by the weight that it has so far: it begins at the first value and hangs above none.
  const smoothed = (values, weight) => {
    let sum = 0, missing = 1;
    return values.map(value => {
      sum = weight * sum + (1 - weight) * value;
      missing *= weight;
      return sum / (1 - missing);
    });
  };

  // The lines of a panel: one for each of its curves in each run that has it.
  const linesOf = (panel, chart) => chart.data.runs.flatMap((run, place) => panel.curves.flatMap((curve, own) => {
    const points = run.curves[curve.name];
    if (!points || !points.steps.length) return [];
    const many = chart.data.runs.length > 1;
    const label = many ? (panel.curves.length > 1 ? `${run.label}: ${curve.label}` : run.label) : curve.label;
    const average = curve.smooth && chart.smoothing > 0 ? smoothed(points.mean, chart.smoothing) : null;
    return [{ key: `${place} ${curve.name}`, label, points, average, dashed: many && own > 0, look: (many ? place : own) % LOOKS }];
  }));
  const isHidden = (chart, line) => chart.hidden.has(line.key);

  const wholeRange = chart => {
    let first = Infinity, last = -Infinity;
    for (const run of chart.data.runs) {
      for (const points of Object.values(run.curves)) {
        if (!points.steps.length) continue;
        first = Math.min(first, points.steps[0]);
        last = Math.max(last, points.steps.at(-1));
      }
    }
    return first > last ? [0, 1] : [first, Math.max(last, first + 1)];
  };
  const rangeOf = chart => {
    if (chart.zoom) return chart.zoom;
    const [first, last] = wholeRange(chart);
    return [last - (last - first) * chart.share, last];
  };

  // Positions.
  const indexAt = (sorted, step) => {
    let low = 0, high = sorted.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < step) low = middle + 1; else high = middle;
    }
    return low > 0 && step - sorted[low - 1] < sorted[low] - step ? low - 1 : low;
  };
  const within = (points, [from, to]) => {
    const first = Math.max(0, indexAt(points.steps, from) - 1);
    return [first, Math.min(points.steps.length - 1, indexAt(points.steps, to) + 1)];
  };
  const extent = (lines, range, isLog) => {
    let low = Infinity, high = -Infinity;
    const take = value => { if (!isLog || value > 0) { low = Math.min(low, value); high = Math.max(high, value); } };
    for (const { points } of lines) {
      for (let i = 0; i < points.steps.length; i++) {
        if (points.steps[i] < range[0] || points.steps[i] > range[1]) continue;
        take((points.low ?? points.mean)[i]);
        take((points.high ?? points.mean)[i]);
      }
    }
    if (low > high) return [isLog ? 0.1 : 0, 1];
    if (isLog) return low < high ? [low, high] : [low / 2, high * 2];
    const middle = (low + high) / 2, half = Math.max((high - low) / 2, Math.abs(middle) / 100 || 1e-6); // else ticks would read alike
    return [middle - half, middle + half];
  };
  const ticksOf = (low, high, isLog) => {
    if (isLog && high / low >= 10) {
      const ticks = [];
      for (let power = Math.ceil(Math.log10(low)); power <= Math.floor(Math.log10(high)); power++) ticks.push(10 ** power);
      return ticks.length > 1 ? ticks : [low, ...ticks, high];
    }
    const raw = (high - low) / 4, size = 10 ** Math.floor(Math.log10(raw));
    const gap = [1, 2, 2.5, 5, 10].map(factor => factor * size).find(step => step >= raw * 0.999);
    const ticks = [];
    for (let tick = Math.ceil(low / gap) * gap; tick <= high + gap * 1e-6; tick += gap) ticks.push(tick);
    return ticks;
  };
  const scaleOf = (chart, panel, lines) => {
    const isLog = chart.isLog && panel.log, range = rangeOf(chart);
    const [low, high] = extent(lines, range, isLog), { width, height } = panel.size;
    const across = width - EDGE.left - EDGE.right, down = height - EDGE.top - EDGE.bottom;
    const place = value => (isLog ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : (value - low) / (high - low));
    return {
      range, ticks: ticksOf(low, high, isLog), across,
      x: step => EDGE.left + (across * (step - range[0])) / (range[1] - range[0]),
      y: value => EDGE.top + down * (1 - place(value)),
      step: x => range[0] + ((x - EDGE.left) / across) * (range[1] - range[0]),
    };
  };

  // Drawing.
  const path = (points, values, scale, [first, last]) => {
    const parts = [];
    for (let i = first; i <= last; i++) parts.push(`${scale.x(points.steps[i]).toFixed(1)},${scale.y(values[i]).toFixed(1)}`);
    return parts;
  };
  const lineHtml = (line, scale) => {
    const { points, average, look } = line, part = within(points, scale.range);
    const means = path(points, points.mean, scale, part), css = `look-${look}${line.dashed ? ' dashed' : ''}`;
    let html = '';
    if (points.high) {
      const upper = path(points, points.high, scale, part), lower = path(points, points.low, scale, part).reverse();
      html += `<polygon class="band ${css}" points="${upper.join(' ')} ${lower.join(' ')}"/>`;
    }
    if (means.length === 1) return `${html}<circle class="dot ${css}" r="4" cx="${means[0].split(',')[0]}" cy="${means[0].split(',')[1]}"/>`;
    if (average) html += `<polyline class="raw ${css}" points="${means.join(' ')}"/>`;
    const drawn = average ? path(points, average, scale, part) : means;
    html += `<polyline class="line ${css}" points="${drawn.join(' ')}"/>`;
    if (part[1] - part[0] < 40 && !average) {
      html += means.map(at => `<circle class="point ${css}" r="2.5" cx="${at.split(',')[0]}" cy="${at.split(',')[1]}"/>`).join('');
    }
    return html;
  };
  const gridHtml = (panel, scale) => {
    const { width, height } = panel.size;
    const rows = scale.ticks.map(tick => {
      const y = scale.y(tick).toFixed(1);
      return `<line class="grid" x1="${EDGE.left}" x2="${width - EDGE.right}" y1="${y}" y2="${y}"/>` +
        `<text class="tick" x="${EDGE.left - 6}" y="${y}" dy="0.32em" text-anchor="end">${shown(tick, 4)}</text>`;
    });
    const ends = [['start', scale.range[0], EDGE.left], ['end', scale.range[1], width - EDGE.right]];
    const names = ends.map(([anchor, step, x]) =>
      `<text class="tick" x="${x}" y="${height - 5}" text-anchor="${anchor}">${anchor === 'start' ? 'step ' : ''}${steps(step)}</text>`);
    return rows.join('') + names.join('');
  };
  const markedRun = (chart, panel) => (chart.data.runs.length === 1 && panel.main ? chart.data.runs[0] : {});
  const markNames = (chart, panel) => [['samples', '▲ samples'], ['saves', '▼ checkpoints']]
    .filter(([name]) => markedRun(chart, panel)[name]?.length).map(([, text]) => `<span class="ed-mark-name">${text}</span>`).join('');
  const marksHtml = (chart, panel, scale) => {
    const run = markedRun(chart, panel), bottom = panel.size.height - EDGE.bottom;
    const kinds = [['samples', 'Samples', bottom], ['saves', 'Checkpoint', EDGE.top]];
    return kinds.map(([name, text, y]) => {
      let before = -Infinity;
      return (run[name] ?? []).filter(step => step >= scale.range[0] && step <= scale.range[1]).map(step => {
        const x = scale.x(step);
        if (x - before < MARK_DISTANCE) return '';
        before = x;
        const shape = name === 'saves' ? `M${x - 4},${y - 4}h8l-4,7z` : `M${x - 4},${y + 4}h8l-4,-7z`;
        return `<path class="mark ${name}" d="${shape}"><title>${text} at step ${steps(step)}</title></path>`;
      }).join('');
    }).join('');
  };
  const wordsOf = (panel, lines, chart) => {
    if (!lines.length) return `No ${panel.title.toLowerCase()} yet`;
    const { points, average } = lines[0];
    const range = rangeOf(chart), first = points.steps.find(step => step >= range[0]) ?? points.steps[0];
    return `${panel.title} from step ${steps(first)} to ${steps(points.steps.at(-1))}, now ${shown((average ?? points.mean).at(-1))}`;
  };
  const legendHtml = (chart, panel, lines) => lines.map(line => {
    const at = chart.cursor === null ? line.points.steps.length - 1 : indexAt(line.points.steps, chart.cursor);
    const value = (line.average ?? line.points.mean)[at];
    const range = chart.cursor !== null && line.points.high ? ` (${shown(line.points.low[at])} to ${shown(line.points.high[at])})` : '';
    return `<button type="button" class="ed-line" data-line="${escape(line.key)}" aria-pressed="${!isHidden(chart, line)}">` +
      `<i class="ed-key-line look-${line.look}${line.dashed ? ' dashed' : ''}"></i>${escape(line.label)}${line.average ? ', smoothed' : ''} <b>${shown(value)}</b>${range}</button>`;
  }).join('') + markNames(chart, panel);
  const cursorHtml = (chart, panel, scale) => {
    if (chart.cursor === null) return '';
    const x = scale.x(chart.cursor), isRight = x > panel.size.width / 2;
    return `<line class="cursor" x1="${x}" x2="${x}" y1="${EDGE.top}" y2="${panel.size.height - EDGE.bottom}"/>` +
      `<text class="at" x="${x + (isRight ? -6 : 6)}" y="${EDGE.top + 10}" text-anchor="${isRight ? 'end' : 'start'}">step ${steps(chart.cursor)}</text>`;
  };
  const drawPanel = (chart, panel, element) => {
    const lines = linesOf(panel, chart), svg = element.querySelector('svg');
    panel.size = { width: Math.max(160, svg.clientWidth), height: Math.max(80, svg.clientHeight) };
    const visible = lines.filter(line => !isHidden(chart, line));
    const scale = scaleOf(chart, panel, visible);
    chart.scales.set(svg, scale);
    svg.setAttribute('viewBox', `0 0 ${panel.size.width} ${panel.size.height}`);
    svg.setAttribute('aria-label', wordsOf(panel, lines, chart));
    svg.querySelector('.drawn').innerHTML = gridHtml(panel, scale) + marksHtml(chart, panel, scale) +
      visible.map(line => lineHtml(line, scale)).join('');
    const inner = svg.querySelector('clipPath rect');
    inner.setAttribute('width', panel.size.width);
    inner.setAttribute('height', panel.size.height);
    drawCursor(chart, panel, element);
  };
  const drawCursor = (chart, panel, element) => {
    const svg = element.querySelector('svg'), scale = chart.scales.get(svg);
    svg.querySelector('.over').innerHTML = cursorHtml(chart, panel, scale) + dragHtml(chart, panel, scale);
    const legend = element.querySelector('.ed-chart-legend'), html = legendHtml(chart, panel, linesOf(panel, chart));
    if (legend.innerHTML !== html) {
      const focused = legend.contains(document.activeElement) && document.activeElement.dataset.line;
      legend.innerHTML = html;
      if (focused) [...legend.children].find(one => one.dataset.line === focused)?.focus();
    }
  };
  const dragHtml = (chart, panel, scale) => {
    if (!chart.drag) return '';
    const [from, to] = [chart.drag.from, chart.drag.to].map(scale.x).sort((a, b) => a - b);
    return `<rect class="drag" x="${from}" width="${to - from}" y="${EDGE.top}" height="${panel.size.height - EDGE.top - EDGE.bottom}"/>`;
  };
  const each = (chart, draw) => {
    for (const element of chart.root.querySelectorAll('.ed-panel')) draw(chart, chart.panels[element.dataset.panel], element);
  };

  // The frame: made anew only where other panels are to be shown.
  const panelHtml = (title, ident) =>
    `<figure class="ed-panel" data-panel="${escape(title)}"><figcaption><strong>${escape(title)}</strong>` +
    `<span class="ed-chart-legend"></span></figcaption><svg xmlns="http://www.w3.org/2000/svg" role="img" tabindex="0" ` +
    `aria-label="No ${escape(title.toLowerCase())} yet"><clipPath id="${ident}"><rect/></clipPath>` +
    `<g class="drawn" clip-path="url(#${ident})"></g><g class="over"></g></svg></figure>`;
  const toolsHtml = name => {
    const ranges = Object.keys(RANGES).map(label =>
      `<label><input type="radio" name="${name}" value="${label}"${label === 'Whole run' ? ' checked' : ''}>${label}</label>`);
    return `<div class="ed-chart-tools" role="toolbar" aria-label="Charts"><span class="ed-ranges">${ranges.join('')}</span>` +
      `<label class="ed-smooth">Smoothing <input type="range" min="0" max="0.99" step="0.01" value="${SMOOTHING}"></label>` +
      '<label><input type="checkbox" class="ed-log-scale"> Log scale</label>' +
      '<button type="button" class="ed-unzoom" hidden>Reset zoom</button></div>' +
      '<p class="ed-note ed-chart-help">Drag across a chart to zoom, double-click to reset.</p><div class="ed-panels"></div>';
  };
  const isPanelFilled = (panel, runs) => panel.main || panel.curves.some(curve => runs.some(run => run.curves[curve.name]?.steps.length));
  const arrange = chart => {
    const panels = chart.data.panels.filter(panel => isPanelFilled(panel, chart.data.runs));
    chart.panels = Object.fromEntries(panels.map(panel => [panel.title, { ...panel }]));
    const titles = panels.map(panel => panel.title).join('|');
    if (titles === chart.titles) return;
    chart.titles = titles;
    chart.root.querySelector('.ed-panels').innerHTML = panels.map(panel => panelHtml(panel.title, `ed-clip-${++number}`)).join('');
  };

  const redraw = chart => {
    if (chart.isDue) return;
    chart.isDue = true;
    requestAnimationFrame(() => {
      chart.isDue = false;
      const isThere = chart.root.isConnected && chart.root.querySelector('.ed-panels'); // it may have been replaced
      if (!isThere || !chart.root.clientWidth) return; // drawn once it is seen
      each(chart, drawPanel);
      chart.root.querySelector('.ed-unzoom').hidden = !chart.zoom;
    });
  };
  const moveCursor = (chart, step) => { chart.cursor = step; each(chart, drawCursor); };
  const setZoom = (chart, zoom) => {
    chart.zoom = zoom;
    for (const radio of chart.root.querySelectorAll('.ed-ranges input')) radio.checked = !zoom && RANGES[radio.value] === chart.share;
    redraw(chart);
  };
  const stepUnder = (chart, event) => {
    const svg = event.target.closest('.ed-panel svg'), scale = svg && chart.scales.get(svg);
    if (!scale) return null;
    const step = scale.step(event.clientX - svg.getBoundingClientRect().left);
    return Math.min(scale.range[1], Math.max(scale.range[0], step));
  };

  // What a person does.
  const press = (chart, event) => {
    const step = stepUnder(chart, event);
    if (step === null || event.button) return;
    chart.drag = { from: step, to: step, x: event.clientX };
  };
  const move = (chart, event) => {
    const step = stepUnder(chart, event);
    if (step === null) return;
    if (chart.drag) chart.drag.to = step;
    moveCursor(chart, step);
  };
  const release = (chart, event) => {
    const { drag } = chart;
    chart.drag = null;
    if (!drag) return;
    const [from, to] = [drag.from, drag.to].sort((a, b) => a - b);
    if (Math.abs(event.clientX - drag.x) >= MIN_DRAG && to > from) setZoom(chart, [from, to]);
    each(chart, drawCursor);
  };
  const pressKey = (chart, event) => {
    if (!event.target.matches('.ed-panel svg')) return;
    const [from, to] = rangeOf(chart), middle = chart.cursor ?? to, half = (to - from) / 4;
    const acts = {
      ArrowLeft: () => moveCursor(chart, Math.max(from, (chart.cursor ?? to) - (to - from) / 50)),
      ArrowRight: () => moveCursor(chart, Math.min(to, (chart.cursor ?? from) + (to - from) / 50)),
      '+': () => setZoom(chart, [Math.max(from, middle - half), Math.min(to, middle + half)]),
      Escape: () => { chart.cursor = null; setZoom(chart, null); },
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  };
  const watch = chart => {
    const { root } = chart;
    root.addEventListener('pointerdown', event => press(chart, event));
    root.addEventListener('pointermove', event => move(chart, event));
    window.addEventListener('pointerup', event => release(chart, event));
    root.addEventListener('pointerleave', () => { if (!chart.drag) moveCursor(chart, null); });
    root.addEventListener('dblclick', event => { if (stepUnder(chart, event) !== null) setZoom(chart, null); });
    root.addEventListener('keydown', event => pressKey(chart, event));
    root.addEventListener('click', event => {
      const line = event.target.closest('[data-line]')?.dataset.line;
      if (line && !chart.hidden.delete(line)) chart.hidden.add(line);
      if (event.target.closest('.ed-unzoom')) setZoom(chart, null);
      else if (line) redraw(chart);
    });
    root.addEventListener('input', event => {
      if (event.target.matches('.ed-smooth input')) chart.smoothing = Number(event.target.value);
      if (event.target.matches('.ed-log-scale')) chart.isLog = event.target.checked;
      if (event.target.matches('.ed-ranges input')) { chart.share = RANGES[event.target.value]; chart.zoom = null; }
      redraw(chart);
    });
    new ResizeObserver(() => redraw(chart)).observe(root);
  };

  // Draw `data` in an element, keeping what a person has chosen there.
  const show = (root, data) => {
    let chart = roots.get(root);
    if (!chart || !root.querySelector('.ed-panels')) {
      root.innerHTML = toolsHtml(`ed-range-${++number}`);
      const isNew = !chart;
      chart = Object.assign(chart ?? {}, {
        root, data, panels: {}, titles: null, scales: new Map(), hidden: new Set(), zoom: null, share: 1, isLog: false,
        smoothing: SMOOTHING, cursor: null, drag: null, isDue: false,
      });
      roots.set(root, chart);
      if (isNew) watch(chart);
    }
    chart.data = data;
    arrange(chart);
    redraw(chart);
  };
  // Draw every element that brings its own data.
  const mountAll = (within = document) => {
    for (const root of within.querySelectorAll('.ed-charts[data-chart]')) {
      const data = JSON.parse(root.dataset.chart);
      root.removeAttribute('data-chart');
      show(root, data);
    }
  };

  return { show, mountAll };
})();
