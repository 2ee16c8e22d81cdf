// The neurons, and the page of a neuron.
const BARS = 15;

function bestPair(n) {
  return pairsOfNeuron.get(n).reduce((best, p) => (worth(p) > worth(best) ? p : best));
}

function viewNeurons() {
  if (!NEURONS)
    return ['Neurons', note('No neuron is class-specific. Choose neurons with', DATA.commands.neurons)];
  const rows = [...Array(NEURONS).keys()].map((n) => ({n, best: bestPair(n), own: pairsOfNeuron.get(n)}));
  const score =
    (name) =>
    ({n, best}) =>
      scoreOf(name, classes.set[pairs.class[best]], n);
  const columns = [
    {
      title: 'Neuron (layer · number)',
      value: ({n}) => neurons.layer[n] * 1e6 + neurons.neuron[n],
      cell: ({n}) => link(neuronHref(n), neuronName(n)),
    },
    neurons.aape && {
      title: 'AAPE, nats',
      number: true,
      hint: 'activation probability entropy; low: answers to few classes',
      value: score('aape'),
      cell: (row) => fixed(score('aape')(row), 3),
    },
    neurons.rate && {
      title: 'Rate',
      number: true,
      hint: 'fraction of tokens at which it is active, mean over classes',
      value: score('rate'),
      cell: (row) => percent(score('rate')(row), 1),
    },
    {title: 'Classes', number: true, value: ({own}) => own.length, cell: ({own}) => number(own.length)},
    {
      title: JUDGED ? 'Tells best' : 'Fires most for',
      value: ({best}) => classes.name[pairs.class[best]],
      cell: ({best}) => link(classHref(pairs.class[best]), className(pairs.class[best])),
    },
    JUDGED && {
      title: 'AUROC held out',
      number: true,
      hint: 'of that class, on clips that the pair was not chosen by',
      value: ({best}) => pairValue('held_out_auroc', best),
      cell: ({best}) => heldOutInterval(best),
    },
    {
      title: 'p(active)',
      number: true,
      hint: "fraction of that class's tokens at which it is active",
      value: ({best}) => pairValue('probability', best),
      cell: ({best}) => percent(pairValue('probability', best), 1),
    },
  ].filter(Boolean);
  return [
    'Neurons',
    el(
      'p',
      {class: 'lead'},
      `${many(NEURONS, 'neuron')} of ${number(DATA.layers * DATA.width)} are specific to at least one class.`,
    ),
    dataTable(columns, rows, {
      caption: 'Class-specific neurons',
      placeholder: 'Search by class or number',
      sort: [neurons.aape ? 1 : 0, false],
      search: ({n, own}) => `${neuronName(n)} ${own.map((p) => classes.name[pairs.class[p]]).join(' ')}`,
      shown: 50,
    }),
    cautions('selection'),
    SETS.map((name, set) => [nullView(set), agreementView(set)]),
  ];
}

function profile(n, set) {
  if (!neurons.profile) return null;
  const own = new Set(pairsOfNeuron.get(n).map((p) => pairs.class[p]));
  const items = classesOfSet(set)
    .map((c) => ({name: classes.name[c], value: probability(n, c), own: own.has(c), href: classHref(c)}))
    .sort((a, b) => b.value - a.value);
  const limit = neurons.probability_bar ? neurons.probability_bar[set] : null;
  const box = el('div');
  const draw = (count) => {
    const rest = items.length - count;
    box.replaceChildren(
      bars(items.slice(0, count), {
        label: `Class profile of neuron ${neuronName(n)}`,
        format: (value) => percent(value, 1),
        limit,
      }),
      ...(rest > 0
        ? [
            el(
              'button',
              {class: 'plain', type: 'button', onclick: () => draw(items.length)},
              `Show all ${items.length} classes`,
            ),
          ]
        : []),
    );
  };
  draw(Math.min(BARS, items.length));
  return el(
    'figure',
    {},
    el(
      'figcaption',
      {},
      `${SETS.length > 1 ? `${SETS[set]}: f` : 'F'}raction of each class's tokens at which the neuron is active. Blue bars: classes that it is specific to. Dashed line: the bar that a class must exceed.`,
    ),
    box,
  );
}

function neuronFacts(n) {
  const sets = [...new Set(pairsOfNeuron.get(n).map((p) => classes.set[pairs.class[p]]))];
  return sets.map((set, place) => [
    SETS.length > 1 && el('h2', {}, SETS[set]),
    facts([
      !place && ['Layer', number(neurons.layer[n]), `of ${DATA.layers}, counted from 0`],
      neurons.aape && [
        'AAPE',
        `${fixed(scoreOf('aape', set, n), 3)} nats`,
        `${fixed(scoreOf('aape_normalised', set, n), 3)} of the maximum; low: answers to few classes` +
          (scoreOf('aape_low', set, n) === null
            ? ''
            : `; ${fixed(scoreOf('aape_low', set, n))} to ${fixed(scoreOf('aape_high', set, n))} nats over resampled recordings`),
      ],
      neurons.rate && [
        'Activation rate',
        percent(scoreOf('rate', set, n), 1),
        'fraction of tokens at which it is above the threshold, mean over classes',
      ],
    ]),
    profile(n, set),
  ]);
}

function neuronClips(n) {
  if (!top.clip) return null;
  const shown = top.clip[n].map((clip, rank) => ({clip, rank})).filter(({clip}) => clipAt.has(clip));
  if (!clips.audio)
    return [
      el('h2', {}, 'Top clips'),
      soundless(),
      el(
        'div',
        {class: 'clips'},
        shown.map(({clip, rank}) => topCard(n, clip, rank)),
      ),
    ];
  const box = el(
    'div',
    {class: 'clips'},
    shown.filter(({clip}) => hasAudio(clip)).map(({clip, rank}) => topCard(n, clip, rank)),
  );
  const silent = shown.filter(({clip}) => !hasAudio(clip));
  const highest = (clips.grids && clips.grids.highest[n]) || null; // 0: the page has none of its clips
  const toggle =
    highest &&
    el(
      'label',
      {},
      el('input', {
        type: 'checkbox',
        checked: true,
        onchange: (event) => box.classList.toggle('quiet', !event.target.checked),
      }),
      ' Activation over the picture',
    );
  return [
    el('h2', {}, 'Top clips'),
    el(
      'p',
      {class: 'small'},
      'Clips with the largest fraction of active tokens. Picture: log-mel spectrogram, white is loud. ',
      highest
        ? 'Orange: activation of the neuron, on the grid of the patches. Hatched: padding after the end of the recording.'
        : '',
    ),
    el(
      'div',
      {class: 'tools'},
      toggle,
      highest &&
        colourKey(
          (t) => `rgb(${OVERLAY.join(' ')} / ${opacity(t)})`,
          '0',
          `${number(highest)} (its highest on these clips)`,
          'Activation',
        ),
    ),
    box,
    silent.length > 0 &&
      el(
        'details',
        {},
        el('summary', {}, `${many(silent.length, 'more top clip')} without sound`),
        el(
          'ul',
          {},
          silent.map(({clip, rank}) =>
            el('li', {}, `${rank + 1}. ${clips.file[clipAt.get(clip)]} · ${percent(top.fraction[n][rank])} of its tokens`),
          ),
        ),
      ),
  ];
}

function topCard(n, clip, rank) {
  return clipCard(
    clip,
    n,
    `${rank + 1}.`,
    `active at ${percent(top.fraction[n][rank])} of its tokens, at most ${number(top.peak[n][rank])}`,
  );
}

function viewNeuron(n) {
  const own = pairsOfNeuron.get(n);
  const columns = [
    {
      title: 'Class',
      value: (p) => classes.name[pairs.class[p]],
      cell: (p) => link(classHref(pairs.class[p]), className(pairs.class[p])),
    },
    ...pairColumns(),
  ];
  return [
    `Layer ${neurons.layer[n]}, neuron ${neurons.neuron[n]}`,
    el(
      'p',
      {class: 'crumbs'},
      link('#neurons', 'Neurons'),
      ' / ',
      n > 0 && [link(neuronHref(n - 1), 'previous'), ' '],
      n + 1 < NEURONS && link(neuronHref(n + 1), 'next'),
    ),
    el('p', {}, 'Specific to ', own.length === 1 ? 'one class:' : `${own.length} classes:`),
    chips(own.map((p) => pairs.class[p])),
    neuronFacts(n),
    neuronClips(n),
    el('h2', {}, 'Classes of the neuron'),
    dataTable(columns, own, {caption: 'Classes that the neuron is specific to', sort: [1, true], shown: 25}),
  ];
}
