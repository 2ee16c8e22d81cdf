// Which classes share neurons.
const pairHref = (a, b) => `#pair/${classHref(a).slice(7)}/${classHref(b).slice(7)}`;

function sharedWords(entry, a, b) {
  const size = entry.order.length,
    i = entry.order.indexOf(a),
    j = entry.order.indexOf(b);
  if (i < 0 || j < 0) return {};
  const get = (name) => (entry[name] ? finite(unpack(entry[name])[i * size + j]) : null);
  return {
    shared: get('shared'),
    jaccard: get('jaccard'),
    expected: get('expected_shared'),
    q: get('q_value'),
    expectedBreadth: get('expected_by_breadth'),
    qBreadth: get('q_by_breadth'),
  };
}

function viewSharing(chosen) {
  if (!DATA.sharing.length)
    return [
      'Sharing',
      needs('Which classes share neurons has not been computed, or cannot be read. Run', DATA.commands.share),
    ];
  const entry = DATA.sharing.find(({set}) => set === chosen) || DATA.sharing[0];
  const {order} = entry;
  const names = order.map((c) => classes.name[c]);
  const jaccard = unpack(entry.jaccard);
  const breadth = entry.q_by_breadth ? unpack(entry.q_by_breadth) : null;
  const size = order.length;
  const off = [...jaccard].filter((value, place) => Math.floor(place / size) !== place % size);
  const most = Math.max(0.01, ...off.reduce((best, value) => (value > best[0] ? [value] : best), [0]));
  const open = (r, c) => {
    location.hash = r === c ? classHref(order[r]) : pairHref(order[r], order[c]);
  };
  return [
    'Sharing',
    el(
      'p',
      {class: 'lead'},
      'Jaccard coefficient of the neuron sets of two classes: shared neurons / neurons of either. Classes that share neurons stand together (average linkage).',
    ),
    el(
      'p',
      {class: 'small'},
      breadth
        ? 'Dots mark pairs that share more than the sizes of the classes and the breadth of the neurons explain (q ≤ 0.05). '
        : '',
      'Click a cell for the shared neurons.',
      entry.without ? ` ${many(entry.without, 'class', 'classes')} without neurons left out.` : '',
    ),
    el(
      'div',
      {class: 'tools'},
      setChooser(
        entry.set,
        DATA.sharing.map(({set}) => set),
        (set) => show(() => viewSharing(set)),
      ),
      colourKey(sequential, '0', fixed(most), 'Jaccard'),
    ),
    heatmap({
      rows: names,
      columns: names,
      label: 'Shared neurons of classes',
      most: 32,
      value: (r, c) => (r === c ? null : jaccard[r * size + c] || null),
      colour: (value) => sequential(value / most),
      marked: breadth && ((r, c) => breadth[r * size + c] <= 0.05),
      tell: (r, c) =>
        r === c ? `${names[r]}: ${many(sizeOf(order[r]), 'neuron')}` : pairSentence(entry, order[r], order[c]),
      open,
    }),
    el('h2', {}, 'Pairs'),
    pairTable(entry),
  ];
}

function pairSentence(entry, a, b) {
  const {shared, jaccard, expectedBreadth, qBreadth} = sharedWords(entry, a, b);
  const more =
    qBreadth === null || qBreadth === undefined
      ? ''
      : `; ${fixed(expectedBreadth, 1)} expected by sizes and breadth, ${level('q', qBreadth)}`;
  return `${classes.name[a]} and ${classes.name[b]}: ${number(shared)} shared, Jaccard ${fixed(jaccard)}${more}`;
}

function pairTable(entry) {
  const {order} = entry,
    size = order.length,
    shared = unpack(entry.shared),
    rows = [];
  for (let i = 0; i < size; i += 1)
    for (let j = i + 1; j < size; j += 1)
      if (shared[i * size + j]) rows.push({a: order[i], b: order[j], at: i * size + j});
  const get = (name) => (row) => (entry[name] ? finite(unpack(entry[name])[row.at]) : null);
  const columns = [
    {
      title: 'Classes',
      value: ({a}) => classes.name[a],
      cell: ({a, b}) => link(pairHref(a, b), `${short(classes.name[a])} and ${short(classes.name[b])}`),
    },
    {
      title: 'Shared',
      number: true,
      hint: 'neurons of both',
      value: get('shared'),
      cell: (row) => number(get('shared')(row)),
    },
    {title: 'Jaccard', number: true, value: get('jaccard'), cell: (row) => fixed(get('jaccard')(row))},
    {
      title: 'Expected',
      number: true,
      hint: 'neurons that chance would share',
      value: get('expected_shared'),
      cell: (row) => fixed(get('expected_shared')(row), 1),
    },
    {
      title: 'q',
      number: true,
      hint: 'that the two share at all by chance',
      value: get('q_value'),
      cell: (row) => chance(get('q_value')(row)),
    },
    entry.q_by_breadth && {
      title: 'Expected by breadth',
      number: true,
      hint: 'if every neuron kept how many classes it has',
      value: get('expected_by_breadth'),
      cell: (row) => fixed(get('expected_by_breadth')(row), 1),
    },
    entry.q_by_breadth && {
      title: 'q by breadth',
      number: true,
      hint: 'that these two in particular share',
      value: get('q_by_breadth'),
      cell: (row) => chance(get('q_by_breadth')(row)),
    },
  ].filter(Boolean);
  const byBreadth = columns.findIndex((column) => column.title === 'q by breadth');
  return dataTable(columns, rows, {
    caption: 'Pairs of classes that share neurons',
    placeholder: 'Search classes',
    search: ({a, b}) => `${classes.name[a]} ${classes.name[b]}`,
    shown: 25,
    sort: byBreadth > 0 ? [byBreadth, false] : [2, true],
  });
}

function viewPair(a, b) {
  const both = sharedNeurons(a, b);
  const entry = DATA.sharing.find(({set}) => set === classes.set[a]);
  const {expected, q, expectedBreadth, qBreadth} = entry ? sharedWords(entry, a, b) : {};
  const known = (value) => value !== null && value !== undefined;
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
      hint: 'that it is specific to',
      value: (n) => pairsOfNeuron.get(n).length,
      cell: (n) => number(pairsOfNeuron.get(n).length),
    },
  ].filter((column, place) => neurons.profile || place === 0 || place === 3);
  return [
    `${classes.name[a]} and ${classes.name[b]}`,
    el('p', {class: 'crumbs'}, link('#sharing', 'Sharing')),
    chips([a, b]),
    facts([
      ['Shared neurons', number(both.length), `of ${number(sizeOf(a))} and ${number(sizeOf(b))}`],
      ['Jaccard', fixed(both.length / Math.max(1, sizeOf(a) + sizeOf(b) - both.length)), 'shared / neurons of either'],
      known(expected) && ['Expected by chance', fixed(expected, 1), `${level('q', q)}, that the two share at all`],
      known(expectedBreadth) && [
        'Expected by breadth',
        fixed(expectedBreadth, 1),
        `${level('q', qBreadth)}, that these two in particular share`,
      ],
    ]),
    both.length
      ? dataTable(columns, both, {caption: 'Neurons specific to both', sort: [0, false]})
      : el('p', {}, 'They share no neuron.'),
  ];
}
