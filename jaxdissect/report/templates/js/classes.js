// The classes, and the page of one.
function classRows() {
  return [...Array(CLASSES).keys()].map((c) => {
    const own = [...(pairsOfClass.get(c) || [])].sort(
      (a, b) => (pairValue('probability', b) || 0) - (pairValue('probability', a) || 0),
    );
    const significant = pairs.q_value
      ? own.filter((p) => pairValue('q_value', p) !== null && pairs.q_value[p] <= 0.05).length
      : null;
    return {c, own, significant};
  });
}

function topNeurons(own) {
  return own
    .slice(0, 3)
    .flatMap((p, place) => [place ? ', ' : '', link(neuronHref(pairs.neuron[p]), neuronName(pairs.neuron[p]))]);
}

function viewClasses() {
  const {probe} = DATA.checks;
  const columns = [
    {title: 'Class', value: ({c}) => classes.name[c], cell: ({c}) => link(classHref(c), classes.name[c])},
    SETS.length > 1 && {title: 'Label set', value: ({c}) => SETS[classes.set[c]], cell: ({c}) => SETS[classes.set[c]]},
    classes.clips && {
      title: 'Clips',
      number: true,
      value: ({c}) => classes.clips[c],
      cell: ({c}) => number(classes.clips[c]),
    },
    {
      title: 'Neurons',
      hint: 'class-specific neurons',
      number: true,
      value: ({own}) => own.length,
      cell: ({own}) => number(own.length),
    },
    {
      title: 'Covered',
      hint: 'has at least one class-specific neuron',
      value: ({own}) => (own.length ? 0 : 1),
      cell: ({own}) => (own.length ? 'yes' : 'no'),
    },
    pairs.q_value && {
      title: 'q ≤ 0.05',
      hint: 'of these neurons, beyond what permuted labels show',
      number: true,
      value: (row) => row.significant,
      cell: (row) => number(row.significant),
    },
    probe && {
      title: 'Probe',
      hint: 'score of a linear probe on the test clips of the class',
      number: true,
      value: ({c}) => probe.score[c],
      cell: ({c}) => percent(probe.score[c]),
    },
    {
      title: 'Top neurons (layer · number)',
      wide: true,
      value: ({own}) => (own.length ? pairValue('probability', own[0]) : null),
      number: false,
      cell: ({own}) => (own.length ? topNeurons(own) : '–'),
    },
  ].filter(Boolean);
  return [
    'Classes',
    el(
      'p',
      {class: 'lead'},
      'A class is covered if at least one neuron is specific to it. Its top neurons are those that fire at the largest share of its tokens.',
    ),
    !NEURONS && needs('No class-specific neurons are here. Choose them with', DATA.commands.neurons),
    dataTable(columns, classRows(), {
      caption: 'Classes and their class-specific neurons',
      placeholder: 'Search classes',
      search: ({c}) => `${classes.name[c]} ${SETS[classes.set[c]]}`,
      sort: [columns.findIndex((column) => column.title === 'Neurons'), true],
    }),
  ];
}

// Columns of tables of pairs of class and neuron.
function pairColumns() {
  return [
    {
      title: 'p(active)',
      hint: "share of the class's tokens at which the neuron is active",
      number: true,
      value: (p) => pairValue('probability', p),
      cell: (p) => percent(pairValue('probability', p), 1),
    },
    neurons.aape && {
      title: 'AAPE',
      hint: 'normalised to 1: the lower, the fewer classes the neuron answers to',
      number: true,
      value: (p) => scoreOf('aape_normalised', classes.set[pairs.class[p]], pairs.neuron[p]),
      cell: (p) => fixed(scoreOf('aape_normalised', classes.set[pairs.class[p]], pairs.neuron[p]), 3),
    },
    pairs.p_value && {
      title: 'p',
      hint: 'by permuted labels',
      number: true,
      value: (p) => pairValue('p_value', p),
      cell: (p) => chance(pairValue('p_value', p)),
    },
    pairs.q_value && {
      title: 'q',
      hint: 'false discovery rate over all pairs',
      number: true,
      value: (p) => pairValue('q_value', p),
      cell: (p) => chance(pairValue('q_value', p)),
    },
    pairs.stability && {
      title: 'Stability',
      hint: 'share of random halves of the recordings in which the pair is selected',
      number: true,
      value: (p) => pairValue('stability', p),
      cell: (p) => percent(pairValue('stability', p)),
    },
    pairs.effect && {
      title: 'Effect, logits',
      hint: "estimated change of the class's margin when the neuron falls silent, logits",
      number: true,
      value: (p) => pairValue('effect', p),
      cell: (p) => signed(pairValue('effect', p), 3),
    },
  ].filter(Boolean);
}

function classNeurons(c) {
  const columns = [
    {
      title: 'Neuron (layer · number)',
      value: (p) => neurons.layer[pairs.neuron[p]] * 1e6 + neurons.neuron[pairs.neuron[p]],
      cell: (p) => link(neuronHref(pairs.neuron[p]), neuronName(pairs.neuron[p])),
    },
    ...pairColumns(),
    {
      title: 'Also specific to',
      wide: true,
      value: (p) => pairsOfNeuron.get(pairs.neuron[p]).length,
      cell: (p) => {
        const others = pairsOfNeuron
          .get(pairs.neuron[p])
          .map((q) => pairs.class[q])
          .filter((other) => other !== c);
        const named = others
          .slice(0, 4)
          .flatMap((other, place) => [place ? ', ' : '', link(classHref(other), short(className(other)))]);
        return others.length ? [named, others.length > 4 ? ` and ${others.length - 4} more` : ''] : '–';
      },
    },
  ];
  return dataTable(columns, pairsOfClass.get(c) || [], {
    caption: `Neurons specific to ${classes.name[c]}`,
    sort: [1, true],
    shown: 12,
  });
}

function classClips(c) {
  const own = (clips.number || [])
    .filter((clip) => clips.labels[clipAt.get(clip)].includes(c) && hasAudio(clip))
    .slice(0, 6);
  if (!own.length)
    return clips.audio
      ? el('p', {class: 'muted'}, 'None of its clips is among the top clips that are embedded here.')
      : soundless();
  return el(
    'div',
    {class: 'clips'},
    own.map((clip, place) => clipCard(clip, null, `${place + 1}.`)),
  );
}

function relatives(c) {
  const shared = classesOfSet(classes.set[c])
    .filter((other) => other !== c)
    .map((other) => ({other, count: sharedNeurons(c, other).length}))
    .filter(({count}) => count)
    .map((row) => ({...row, jaccard: row.count / (sizeOf(c) + sizeOf(row.other) - row.count)}))
    .sort((a, b) => b.jaccard - a.jaccard)
    .slice(0, 8);
  if (!shared.length) return null;
  return [
    el('h2', {}, 'Shares neurons with'),
    bars(
      shared.map(({other, jaccard}) => ({
        name: classes.name[other],
        value: jaccard,
        own: isParticularPair(c, other),
        href: pairHref(c, other),
      })),
      {label: 'Jaccard coefficient of the neuron sets', format: (value) => fixed(value), most: 1},
    ),
    el(
      'p',
      {class: 'small'},
      'Jaccard coefficient: shared neurons / neurons of either class. Blue: more than the sizes of the two classes and the breadth of the neurons explain (q ≤ 0.05); grey: not, or not tested.',
    ),
  ];
}

function viewClass(c) {
  const set = classes.set[c];
  const {probe} = DATA.checks;
  return [
    classes.name[c],
    el('p', {class: 'crumbs'}, link('#classes', 'Classes'), ` / ${SETS[set]}`),
    facts([
      ['Class-specific neurons', number(sizeOf(c)), 'that answer to few classes, and often to this one'],
      classes.clips && ['Clips', number(classes.clips[c]), 'counted'],
      classes.tokens && ['Tokens', number(classes.tokens[c]), 'counted'],
      probe &&
        finite(probe.score[c]) !== null && [
          'Linear probe',
          percent(probe.score[c]),
          `${probe.metric[SETS[set]]} on ${many(probe.clips[c], 'test clip')}`,
        ],
    ]),
    sizeOf(c)
      ? [el('h2', {}, 'Neurons'), classNeurons(c)]
      : el('p', {}, 'No neuron is specific to this class: the class is not covered.'),
    ablatedClass(c),
    relatives(c),
    el('h2', {}, 'Clips'),
    classClips(c),
  ];
}

// On the overview: where to begin.
function beginnings() {
  const busiest = [...Array(CLASSES).keys()]
    .filter(sizeOf)
    .sort((a, b) => sizeOf(b) - sizeOf(a))
    .slice(0, 12);
  return busiest.length
    ? [
        el('h2', {}, 'Where to begin'),
        el(
          'p',
          {class: 'small'},
          'The classes with most neurons; all of them stand in ',
          link('#classes', 'Classes'),
          '.',
        ),
        el(
          'ul',
          {class: 'chips'},
          busiest.map((c) => el('li', {}, link(classHref(c), `${short(className(c), 40)} ${sizeOf(c)}`))),
        ),
      ]
    : [];
}
