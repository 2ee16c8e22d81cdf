// Ablation: what silencing, scaling or patching neurons does to each class.
function ablationRows(entry) {
  const width = entry.classes.length;
  return entry.interventions.flatMap((intervention, i) =>
    entry.classes.map((c, k) => {
      const get = (name) => (entry[name] ? finite(unpack(entry[name])[i * width + k]) : null);
      return {intervention, c, own: intervention.own.includes(c), clips: entry.clips[k], before: entry.before[k], get};
    }),
  );
}

const gainOf = ({mode, gain}) => (mode === 'gain' ? plain(gain) : mode);
const controlsOf = (mean, deviation, count, places = 2) =>
  finite(mean) === null ? '–' : `${signed(mean, places)} ± ${fixed(deviation, places)} (${count})`;

const ABLATION_COLUMNS = [
  {
    title: 'Set (neurons)',
    value: ({intervention}) => intervention.base,
    cell: ({intervention}) => [short(intervention.base, 60), el('span', {class: 'muted'}, ` (${number(intervention.neurons)})`)],
  },
  {
    title: 'Gain',
    hint: 'factor on the activations: 0 silences',
    number: true,
    value: ({intervention}) => intervention.gain,
    cell: ({intervention}) => gainOf(intervention),
  },
  {
    title: 'Measured on',
    value: ({c}) => classes.name[c],
    cell: ({c}) => link(classHref(c), short(classes.name[c], 40)),
  },
  {
    title: 'Change, logits',
    hint: 'of the margin',
    number: true,
    value: (row) => row.get('margin_change'),
    cell: (row) => el('b', {}, signed(row.get('margin_change'), 3)),
  },
  {
    title: '95% interval',
    hint: 'over resampled recordings',
    number: true,
    value: (row) => row.get('ci_low'),
    cell: (row) => (row.get('ci_low') === null ? '–' : `${signed(row.get('ci_low'))} to ${signed(row.get('ci_high'))}`),
  },
  {
    title: 'Controls',
    hint: 'mean ± deviation of matched random sets, and how many',
    number: true,
    value: (row) => row.get('control_mean'),
    cell: (row) => controlsOf(row.get('control_mean'), row.get('control_sd'), row.intervention.controls),
  },
  {
    title: 'p',
    hint: 'never below 1 / (1 + controls)',
    number: true,
    value: (row) => row.get('p_value'),
    cell: (row) => chance(row.get('p_value')),
  },
  {
    title: 'q',
    hint: 'false discovery rate',
    number: true,
    value: (row) => row.get('q_value'),
    cell: (row) => chance(row.get('q_value')),
  },
  {
    title: 'Clips gained',
    hint: 'change of accuracy x clips',
    number: true,
    value: (row) => row.get('change_clips'),
    cell: (row) =>
      row.get('change_clips') === null ? '–' : `${signed(row.get('change_clips'), 1)} of ${number(row.clips)}`,
  },
  {
    title: 'Before',
    hint: 'accuracy (multi-label: average precision) without an intervention',
    number: true,
    value: (row) => row.before,
    cell: (row) => percent(row.before),
  },
];

function ablationTable(rows, caption) {
  return dataTable(ABLATION_COLUMNS, rows, {
    caption,
    placeholder: 'Search',
    search: ({intervention, c}) => `${intervention.name} ${classes.name[c]}`,
    sort: [3, false],
    shown: 25,
  });
}

// The whole of a matrix, colours centred on no change.
function specificity(entry) {
  const width = entry.classes.length,
    change = unpack(entry.margin_change),
    p = unpack(entry.p_value);
  const shown = entry.interventions
    .map((_, i) => i)
    .filter((i) => entry.interventions[i].mode !== 'gain' || entry.interventions[i].gain === lowestGain(entry));
  const most = shown.reduce(
    (best, i) =>
      entry.classes.reduce((peak, c, k) => Math.max(peak, Math.abs(finite(change[i * width + k]) || 0)), best),
    1e-6,
  );
  return [
    el('h2', {}, 'Specificity matrix'),
    el(
      'p',
      {class: 'small'},
      `Rows: neurons that were ${isPatch(entry) ? 'patched from clips of the class into others' : `silenced (gain ${number(lowestGain(entry))})`}. Columns: classes whose margin was measured. Dots mark the class that a row's neurons are specific to: a specific effect changes this class alone.`,
    ),
    el(
      'div',
      {class: 'tools'},
      colourKey((t) => diverging(2 * t - 1), fixed(-most), `+${fixed(most)}`, 'Margin change, logits'),
    ),
    heatmap({
      rows: shown.map((i) => entry.interventions[i].base),
      columns: entry.classes.map((c) => classes.name[c]),
      label: 'Margin change by changed neurons and class',
      square: false,
      value: (r, k) => change[shown[r] * width + k],
      colour: (value) => diverging(value / most),
      marked: (r, k) => entry.interventions[shown[r]].own.includes(entry.classes[k]),
      describe: (r, k) =>
        `${isPatch(entry) ? 'Patching' : 'Silencing'} ${entry.interventions[shown[r]].base}: ${classes.name[entry.classes[k]]} changes by ${signed(change[shown[r] * width + k], 3)} logits, ${level('p', p[shown[r] * width + k])}`,
      open: (r, k) => {
        location.hash = classHref(entry.classes[k]);
      },
    }),
  ];
}

const isPatch = (entry) => entry.interventions.some(({mode}) => mode === 'patch');
const lowestGain = (entry) => Math.min(...entry.interventions.map(({gain}) => gain));

function doses(entry) {
  const width = entry.classes.length;
  const curves = [...grouped(entry.interventions.map(({base}) => base))]
    .filter(([, list]) => list.length > 1)
    .flatMap(([base, list]) =>
      entry.classes.map((c, k) => ({base, list, c, k})).filter(({c}) => entry.interventions[list[0]].own.includes(c)),
    );
  if (!curves.length) return null;
  const at = (name, i, k) => (entry[name] ? finite(unpack(entry[name])[i * width + k]) : null);
  return [
    el('h2', {}, 'Dose and response'),
    el(
      'p',
      {class: 'small'},
      "Margin change of the set's own class, logits, against the gain on its neurons (1 leaves them alone). Bars: 95% interval. Grey band: matched controls, mean ± deviation.",
    ),
    el(
      'div',
      {class: 'dose'},
      curves.map(({base, list, c, k}) => {
        const points = list
          .map((i) => ({
            x: entry.interventions[i].gain,
            y: at('margin_change', i, k),
            low: at('ci_low', i, k),
            high: at('ci_high', i, k),
            mean: at('control_mean', i, k),
            sd: at('control_sd', i, k),
          }))
          .concat(list.some((i) => entry.interventions[i].gain === 1) ? [] : [{x: 1, y: 0, mean: 0, sd: 0}])
          .sort((a, b) => a.x - b.x);
        const title = base === classes.name[c] ? base : `${base}, measured on ${classes.name[c]}`;
        return el('figure', {}, el('figcaption', {}, title), doseChart(points, `Dose and response of ${title}`));
      }),
    ),
  ];
}

function suiteTable(suite) {
  if (!suite.length) return null;
  const columns = [
    {title: 'Measured on', value: (row) => row.contrast, cell: (row) => row.contrast},
    {title: 'Gain', number: true, value: (row) => row.gain, cell: gainOf},
    {title: 'Interventions', number: true, value: (row) => row.interventions, cell: (row) => number(row.interventions)},
    {
      title: 'Change, logits',
      number: true,
      value: (row) => row.margin_change,
      cell: (row) => el('b', {}, signed(row.margin_change, 3)),
    },
    {
      title: 'Controls',
      number: true,
      value: (row) => row.control_mean,
      cell: (row) => controlsOf(row.control_mean, row.control_sd, row.controls, 3),
    },
    {title: 'p', number: true, value: (row) => row.p_value, cell: (row) => chance(row.p_value)},
  ];
  return [
    el('h2', {}, 'Aggregate test'),
    el(
      'p',
      {class: 'small'},
      'Mean margin change over all interventions: on their own classes, on the other classes, and the difference. Controls: the same means of matched random sets. Where classes have few test clips, report this test.',
    ),
    dataTable(columns, suite, {caption: 'Margin change of all interventions', sort: [1, false]}),
  ];
}

function viewAblation(chosen) {
  if (!DATA.ablation || !DATA.ablation.sets.length)
    return [
      'Ablation',
      note('This report has no ablation. Run `jaxdissect probe`, then', DATA.commands.ablate),
      SETS.map((name, set) => causalView(set)),
    ];
  const entry = DATA.ablation.sets.find(({set}) => set === chosen) || DATA.ablation.sets[0];
  const rows = ablationRows(entry);
  const own = rows.filter((row) => row.own);
  return [
    'Ablation',
    el(
      'p',
      {class: 'lead'},
      isPatch(entry)
        ? 'Activations of neurons on a clip of a class take the place of those on a clip of another class. A linear probe then judges this second clip by the class of the first. The margin is the logit of that class minus the highest other logit. A positive change means that the neurons carry the class.'
        : 'Neurons are silenced or scaled inside the encoder, and a linear probe judges the test clips again. The margin is the logit of the true class minus the highest other logit. A negative change means that the neurons help the class.',
    ),
    el(
      'div',
      {class: 'tools'},
      setChooser(
        entry.set,
        DATA.ablation.sets.map(({set}) => set),
        (set) => show(() => viewAblation(set)),
      ),
    ),
    cautions('ablation'),
    suiteTable(DATA.ablation.suite.filter((row) => row.label_set === SETS[entry.set])),
    el('h2', {}, 'Change of own classes'),
    ablationTable(
      own.length ? own : rows,
      own.length ? 'Each set, measured on its own classes' : 'All interventions and classes',
    ),
    specificity(entry),
    doses(entry),
    causalView(entry.set),
    own.length > 0 &&
      el(
        'details',
        {},
        el('summary', {}, `All ${number(rows.length)} rows`),
        ablationTable(rows, 'All interventions and classes'),
      ),
  ];
}

// For the page of a class: interventions on its neurons.
function ablatedClass(c) {
  const entry = DATA.ablation && DATA.ablation.sets.find(({set}) => set === classes.set[c]);
  if (!entry) return null;
  const rows = ablationRows(entry).filter((row) => row.own && row.c === c);
  return rows.length
    ? [
        el('h2', {}, 'Ablation of its neurons'),
        ablationTable(rows, `Interventions on the neurons of ${classes.name[c]}`),
      ]
    : null;
}
