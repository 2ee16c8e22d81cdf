// The classes, and the page of a class.
// How good a pair is: its AUROC on held-out clips; of pairs that were not judged, the fraction of the class's tokens.
const JUDGED = pairs.held_out_auroc && pairs.held_out_auroc.some((value) => finite(value) !== null);
const worth = (p) => (JUDGED ? pairValue('held_out_auroc', p) : pairValue('probability', p)) || 0;
const BEST = JUDGED
  ? 'Best neurons tell clips of a class from others best, on clips that they were not chosen by (AUROC; 0.5 is chance).'
  : 'Best neurons fire at the largest fraction of the tokens of a class.';

// Pairs of a class and its neurons, the best first.
const bestPairs = (c) => [...(pairsOfClass.get(c) || [])].sort((a, b) => worth(b) - worth(a));

// AUROC of a pair on held-out clips, with its interval.
const heldOut = (p) => fixed(pairValue('held_out_auroc', p), 2);
const heldOutInterval = (p) =>
  `${heldOut(p)} [${fixed(pairValue('held_out_auroc_low', p), 2)}, ${fixed(pairValue('held_out_auroc_high', p), 2)}]`;

// A class with its pairs, and how many of these are significant (null: not tested).
function classRow(c) {
  const ofClass = bestPairs(c);
  const significant = ofClass.filter((p) => pairValue('q_value', p) !== null && pairs.q_value[p] <= 0.05).length;
  return {c, ofClass, significant: pairs.q_value ? significant : null};
}

function bestNeurons(ofClass) {
  return ofClass
    .slice(0, 3)
    .flatMap((p, place) => [place ? ', ' : '', link(neuronHref(pairs.neuron[p]), neuronName(pairs.neuron[p]))]);
}

function viewClasses() {
  const {probe} = DATA.evidence;
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
      value: ({ofClass}) => ofClass.length,
      cell: ({ofClass}) => number(ofClass.length),
    },
    {
      title: 'Covered',
      hint: 'has at least one class-specific neuron',
      value: ({ofClass}) => (ofClass.length ? 0 : 1),
      cell: ({ofClass}) => (ofClass.length ? 'yes' : 'no'),
    },
    pairs.q_value && {
      title: 'q ≤ 0.05',
      hint: 'of these neurons, beyond what permuted labels show',
      number: true,
      value: (row) => row.significant,
      cell: (row) => number(row.significant),
    },
    JUDGED && {
      title: 'AUROC held out',
      hint: 'of its best neuron, on clips that the neuron was not chosen by; 0.5 is chance',
      number: true,
      value: ({ofClass}) => (ofClass.length ? pairValue('held_out_auroc', ofClass[0]) : null),
      cell: ({ofClass}) => (ofClass.length ? heldOut(ofClass[0]) : '–'),
    },
    probe && {
      title: 'Probe',
      hint: 'score of a linear probe on the test clips of the class',
      number: true,
      value: ({c}) => probe.score[c],
      cell: ({c}) => percent(probe.score[c]),
    },
    {
      title: 'Best neurons (layer · number)',
      wide: true,
      value: ({ofClass}) => (ofClass.length ? worth(ofClass[0]) : null),
      number: false,
      cell: ({ofClass}) => (ofClass.length ? bestNeurons(ofClass) : '–'),
    },
  ].filter(Boolean);
  return [
    'Classes',
    el(
      'p',
      {class: 'lead'},
      `A class is covered if at least one neuron is specific to it. ${BEST}`,
    ),
    !NEURONS && note('No neuron is class-specific. Choose neurons with', DATA.commands.neurons),
    dataTable(columns, [...Array(CLASSES).keys()].map(classRow), {
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
    JUDGED && {
      title: 'AUROC held out',
      hint: 'with its 95% interval, on clips that the pair was not chosen by; 0.5 is chance',
      number: true,
      value: (p) => pairValue('held_out_auroc', p),
      cell: heldOutInterval,
    },
    pairs.reading && {
      title: 'Reading',
      hint: 'what of the activation on a clip the AUROC is of',
      value: (p) => pairs.reading[p],
      cell: (p) => pairs.reading[p],
    },
    {
      title: 'p(active)',
      hint: "fraction of the class's tokens at which the neuron is active",
      number: true,
      value: (p) => pairValue('probability', p),
      cell: (p) => percent(pairValue('probability', p), 1),
    },
    pairs.ratio && {
      title: 'p / p(others)',
      hint: 'p(active) for the class over p(active) for the other classes',
      number: true,
      value: (p) => pairValue('ratio', p),
      cell: (p) => fixed(pairValue('ratio', p), 2),
    },
    neurons.aape && {
      title: 'AAPE',
      hint: 'normalised to 1; low: the neuron answers to few classes',
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
      hint: 'fraction of random halves of the recordings that select the pair',
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
      ? el('p', {class: 'muted'}, 'None of its clips is among the top clips of this report.')
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
    el('h2', {}, 'Classes with shared neurons'),
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
      'Jaccard coefficient: shared neurons / neurons of either class. Blue: more than the sizes of the two classes and the breadth of the neurons explain (q ≤ 0.05). Grey: not more, or not tested.',
    ),
  ];
}

function viewClass(c) {
  const set = classes.set[c];
  const {probe} = DATA.evidence;
  return [
    classes.name[c],
    el('p', {class: 'crumbs'}, link('#classes', 'Classes'), ` / ${SETS[set]}`),
    facts([
      ['Class-specific neurons', number(sizeOf(c)), DATA.rule],
      JUDGED && sizeOf(c) && ['Best AUROC held out', heldOutInterval(bestPairs(c)[0]), 'on clips that the neuron was not chosen by'],
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
      : el('p', {}, 'No neuron is specific to this class.'),
    ablatedClass(c),
    relatives(c),
    el('h2', {}, 'Clips'),
    classClips(c),
  ];
}
