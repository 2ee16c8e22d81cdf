// Sharing: neurons that two classes have in common.
const pairHref = (a, b) => `#pair/${classHref(a).slice(7)}/${classHref(b).slice(7)}`;

// A block holds what every class of its rows shares with every class of its columns; the columns may be of another run.
const isWithin = (block) => block.columns[0] >= 0 && classes.set[block.columns[0]] === block.set;
const blockName = (block) => {
  const rows = SETS[block.set];
  if (block.run) return `${rows} x ${block.label_set} of ${block.run}`;
  return isWithin(block) ? rows : `${rows} x ${SETS[classes.set[block.columns[0]]]}`;
};
const inBlock = (block, name, i, j) =>
  block[name] ? finite(unpack(block[name])[i * block.columns.length + j]) : null;

// Block, row and column of two classes of this run.
function findPair(a, b) {
  for (const [row, column] of [
    [a, b],
    [b, a],
  ]) {
    const block = DATA.sharing.find(
      ({set, run, columns}) => !run && classes.set[row] === set && classes.set[column] === classes.set[columns[0]],
    );
    if (block && block.rows.includes(row) && block.columns.includes(column))
      return [block, block.rows.indexOf(row), block.columns.indexOf(column)];
  }
  return null;
}

// Every two classes once.
function cellsOf(block) {
  const within = isWithin(block);
  return block.rows.flatMap((a, i) =>
    block.columns.map((b, j) => ({a, b, i, j})).filter(({j}) => !within || j > i),
  );
}

function sharingFacts(block, cells) {
  const below = (name) => cells.filter(({i, j}) => inBlock(block, name, i, j) <= 0.05 && inBlock(block, name, i, j) !== null).length;
  return facts([
    ['Pairs of classes', number(cells.length), 'in which both classes have neurons'],
    [
      'Sharing at all',
      number(below('q_value')),
      'pairs share more than by chance (q ≤ 0.05); nearly any two do if neurons are specific to many classes',
    ],
    block.q_by_breadth && [
      'Sharing in particular',
      number(below('q_by_breadth')),
      'pairs share more than their sizes and the breadth of the neurons explain (q ≤ 0.05): report these',
    ],
  ]);
}

function viewSharing(chosen = 0) {
  if (!DATA.sharing.length)
    return [
      'Sharing',
      note('This report has no sharing. Run', DATA.commands.share),
    ];
  const block = DATA.sharing[chosen];
  const within = isWithin(block);
  const cells = cellsOf(block);
  const most = cells.reduce((best, {i, j}) => Math.max(best, inBlock(block, 'jaccard', i, j) || 0), 0.1);
  const open = (i, j) => {
    const [a, b] = [block.rows[i], block.columns[j]];
    location.hash = a === b || b < 0 ? classHref(a) : pairHref(a, b);
  };
  const left = block.run ? 0 : classesOfSet(block.set).filter((c) => !sizeOf(c)).length;
  return [
    'Sharing',
    el(
      'p',
      {class: 'lead'},
      'Jaccard coefficient of the neuron sets of two classes: shared neurons / neurons of either. Classes that share neurons are next to each other (average linkage).',
    ),
    el(
      'p',
      {class: 'small'},
      block.q_by_breadth ? 'Dots: sharing in particular. ' : '',
      block.run
        ? `Columns: classes of ${block.run}, in the order of their namesakes. Click a cell for the class of its row.`
        : 'Click a cell for the shared neurons.',
      left ? ` ${many(left, 'class', 'classes')} of ${SETS[block.set]} without neurons left out.` : '',
    ),
    cautions('sharing'),
    block.foreign &&
      note(
        'The other run is of another encoder: numbers of neurons correspond only if one training began from the other.',
      ),
    el(
      'div',
      {class: 'tools'},
      chooser('Compared', DATA.sharing.map(blockName), chosen, (place) => show(() => viewSharing(place))),
      colourKey(sequential, '0', fixed(most), 'Jaccard'),
    ),
    heatmap({
      rows: block.rows.map((c) => classes.name[c]),
      columns: block.names,
      label: `Shared neurons of classes, ${blockName(block)}`,
      most: 32,
      value: (i, j) => (within && i === j ? null : inBlock(block, 'jaccard', i, j) || null),
      colour: (value) => sequential(value / most),
      marked: block.q_by_breadth && ((i, j) => isParticular(block, i, j)),
      describe: (i, j) =>
        within && i === j
          ? `${classes.name[block.rows[i]]}: ${many(sizeOf(block.rows[i]), 'neuron')}`
          : pairSentence(block, i, j),
      open,
    }),
    sharingFacts(block, cells),
    el('h2', {}, 'Pairs'),
    pairTable(block, cells),
  ];
}

function isParticular(block, i, j) {
  const q = inBlock(block, 'q_by_breadth', i, j);
  return q !== null && q <= 0.05;
}

function isParticularPair(a, b) {
  const cell = findPair(a, b);
  return Boolean(cell) && isParticular(...cell);
}

function pairSentence(block, i, j) {
  const more = block.q_by_breadth
    ? `; ${fixed(inBlock(block, 'expected_by_breadth', i, j), 1)} expected by sizes and breadth, ${level('q', inBlock(block, 'q_by_breadth', i, j))}`
    : '';
  return `${classes.name[block.rows[i]]} and ${block.names[j]}: ${number(inBlock(block, 'shared', i, j))} shared, Jaccard ${fixed(inBlock(block, 'jaccard', i, j))}${more}`;
}

function pairTable(block, cells) {
  const rows = cells.filter(({i, j}) => inBlock(block, 'shared', i, j));
  const get = (name) => ({i, j}) => inBlock(block, name, i, j);
  const columns = [
    {
      title: 'Classes',
      value: ({a}) => classes.name[a],
      cell: ({a, b, j}) =>
        b < 0
          ? [link(classHref(a), short(classes.name[a])), ` and ${short(block.names[j])}`]
          : link(pairHref(a, b), `${short(classes.name[a])} and ${short(block.names[j])}`),
    },
    {
      title: 'Shared',
      number: true,
      hint: 'neurons specific to both',
      value: get('shared'),
      cell: (row) => number(get('shared')(row)),
    },
    {title: 'Jaccard', number: true, value: get('jaccard'), cell: (row) => fixed(get('jaccard')(row))},
    {
      title: 'Expected',
      number: true,
      hint: 'shared neurons by chance',
      value: get('expected_shared'),
      cell: (row) => fixed(get('expected_shared')(row), 1),
    },
    {
      title: 'q',
      number: true,
      hint: 'of sharing at all',
      value: get('q_value'),
      cell: (row) => chance(get('q_value')(row)),
    },
    block.q_by_breadth && {
      title: 'Expected by breadth',
      number: true,
      hint: 'shared neurons if each neuron keeps its number of classes',
      value: get('expected_by_breadth'),
      cell: (row) => fixed(get('expected_by_breadth')(row), 1),
    },
    block.q_by_breadth && {
      title: 'q by breadth',
      number: true,
      hint: 'of sharing in particular',
      value: get('q_by_breadth'),
      cell: (row) => chance(get('q_by_breadth')(row)),
    },
  ].filter(Boolean);
  const byBreadth = columns.findIndex((column) => column.title === 'q by breadth');
  return dataTable(columns, rows, {
    caption: 'Pairs of classes with shared neurons',
    placeholder: 'Search classes',
    search: ({a, j}) => `${classes.name[a]} ${block.names[j]}`,
    shown: 25,
    sort: byBreadth > 0 ? [byBreadth, false] : [2, true],
  });
}

function viewPair(a, b) {
  const both = sharedNeurons(a, b);
  const cell = findPair(a, b);
  const [expected, q, expectedBreadth, qBreadth] = [
    'expected_shared',
    'q_value',
    'expected_by_breadth',
    'q_by_breadth',
  ].map((name) => (cell ? inBlock(cell[0], name, cell[1], cell[2]) : null));
  const columns = [
    {
      title: 'Neuron (layer · number)',
      value: (n) => neurons.layer[n] * 1e6 + neurons.neuron[n],
      cell: (n) => link(neuronHref(n), neuronName(n)),
    },
    {
      title: `p(active), ${short(classes.name[a], 16)}`,
      number: true,
      value: (n) => probability(n, a),
      cell: (n) => percent(probability(n, a), 1),
    },
    {
      title: `p(active), ${short(classes.name[b], 16)}`,
      number: true,
      value: (n) => probability(n, b),
      cell: (n) => percent(probability(n, b), 1),
    },
    {
      title: 'Classes',
      number: true,
      hint: 'that the neuron is specific to',
      value: (n) => pairsOfNeuron.get(n).length,
      cell: (n) => number(pairsOfNeuron.get(n).length),
    },
  ].filter((column, place) => neurons.profile || place === 0 || place === 3);
  return [
    `${className(a)} and ${className(b)}`,
    el('p', {class: 'crumbs'}, link('#sharing', 'Sharing')),
    chips([a, b]),
    facts([
      ['Shared neurons', number(both.length), `of ${number(sizeOf(a))} and ${number(sizeOf(b))}`],
      ['Jaccard', fixed(both.length / Math.max(1, sizeOf(a) + sizeOf(b) - both.length)), 'shared / neurons of either'],
      expected !== null && ['Expected by chance', fixed(expected, 1), `${level('q', q)} of sharing at all`],
      expectedBreadth !== null && [
        'Expected by breadth',
        fixed(expectedBreadth, 1),
        `${level('q', qBreadth)} of sharing in particular`,
      ],
    ]),
    both.length
      ? dataTable(columns, both, {caption: 'Neurons specific to both', sort: [0, false]})
      : el('p', {}, 'The two classes share no neuron.'),
  ];
}
