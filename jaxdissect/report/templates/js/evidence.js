// Evidence for a selection: permuted labels, agreement of selectors, layers, the causal map.

// Pairs that permuted labels select by the same cut-offs, beside those observed.
function nullView(set) {
  const entry = evidenceOf('null', set);
  if (!entry) return null;
  const sentence = `The selection has ${number(entry.observed)} pairs of class and neuron. With permuted labels, the same cut-offs select ${number(entry.highest)} pairs at most; ${number(entry.reached)} of ${number(entry.permutations)} permutations reach the observed number.`;
  return [
    el('h2', {}, `Permuted labels${ofSet(set)}`),
    el(
      'figure',
      {},
      el('figcaption', {}, `${sentence} Columns: permutations. Dashed line: observed.`),
      sized((width) => nullPicture(entry, sentence, width)),
    ),
  ];
}

const ofSet = (set) => (SETS.length > 1 ? ` (${SETS[set]})` : '');

function nullPicture(entry, label, width) {
  const high = 130,
    left = 44,
    right = 24,
    below = 36;
  const step = (width - left - right) / entry.bins.length;
  const most = Math.max(...entry.bins);
  const x = left + ((width - left - right) * entry.observed) / entry.most;
  const floor = high - below;
  return picture(
    width,
    high,
    label,
    entry.bins.map((count, bin) =>
      svg('rect', {
        x: left + bin * step,
        width: Math.max(0.5, step - 1),
        y: floor - ((floor - 20) * count) / most,
        height: ((floor - 20) * count) / most,
        class: 'rest',
      }),
    ),
    svg('line', {x1: left, x2: width - right, y1: floor, y2: floor, class: 'zero'}),
    svg('line', {x1: x, x2: x, y1: 14, y2: floor, class: 'limit'}),
    svg(
      'text',
      {x, y: 11, 'text-anchor': x > width / 2 ? 'end' : 'start'},
      `observed ${number(entry.observed)}`,
    ),
    svg('text', {x: left - 6, y: 24, 'text-anchor': 'end', class: 'quiet-text'}, number(most)),
    [0, entry.most].map((value) =>
      svg(
        'text',
        {
          x: left + ((width - left - right) * value) / entry.most,
          y: floor + 15,
          'text-anchor': value ? 'end' : 'start',
          class: 'quiet-text',
        },
        number(value),
      ),
    ),
    svg(
      'text',
      {x: (left + width - right) / 2, y: high - 4, 'text-anchor': 'middle', class: 'quiet-text'},
      'pairs of class and neuron',
    ),
  );
}

// A table of every two selectors.
function agreementView(set) {
  const entry = evidenceOf('agreement', set);
  if (!entry) return null;
  const names = entry.selectors;
  const plainName = (name) => name.replace(/_/g, ' ');
  return [
    el('h2', {}, `Agreement of selectors${ofSet(set)}`),
    el(
      'p',
      {class: 'small'},
      "Spearman's rank correlation of the scores within a class / Jaccard coefficient of the pairs of class and neuron that each selects.",
    ),
    el(
      'div',
      {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `Agreement of selectors${ofSet(set)}`},
      el(
        'table',
        {},
        el('caption', {}, 'Rank correlation / Jaccard coefficient of every two selectors'),
        el(
          'thead',
          {},
          el(
            'tr',
            {},
            el('td'),
            names.slice(1).map((name) => el('th', {scope: 'col', class: 'number'}, plainName(name))),
          ),
        ),
        el(
          'tbody',
          {},
          names
            .slice(0, -1)
            .map((name, i) =>
              el(
                'tr',
                {},
                el('th', {scope: 'row'}, plainName(name)),
                names
                  .slice(1)
                  .map((_, j) =>
                    el(
                      'td',
                      {class: 'number'},
                      j >= i ? `${fixed(entry.rank_correlation[i][j + 1])} / ${fixed(entry.jaccard[i][j + 1])}` : '',
                    ),
                  ),
              ),
            ),
        ),
      ),
    ),
  ];
}

function layersTable(set) {
  const entry = evidenceOf('layers', set);
  if (!entry) return null;
  const columns = [
    ['layer', 'Layer', 'counted from 0'],
    ['kept', 'Kept', 'neurons that the selection keeps'],
    ['neurons', 'Class-specific', 'kept neurons that are specific to a class'],
    ['pairs', 'Pairs', 'of class and neuron'],
    ['pairs_significant', 'q ≤ 0.05', 'of these pairs, beyond what permuted labels show'],
  ]
    .filter(([name]) => entry[name])
    .map(([name, title, hint], place) => ({
      title,
      hint,
      number: place > 0,
      value: (row) => entry[name][row],
      cell: (row) => number(entry[name][row]),
    }));
  return [el('h2', {}, 'Neurons and pairs by layer'), dataTable(columns, [...entry.layer.keys()], {caption: 'Kept neurons, class-specific neurons and pairs'})];
}

// What silencing single neurons is estimated to do.
function causalView(set) {
  const entry = evidenceOf('causal', set);
  if (!entry) return null;
  const columns = [
    {title: 'Layer', value: ({layer}) => layer, cell: ({layer}) => number(layer)},
    {
      title: 'Rank correlation',
      hint: 'of the estimate with silencing one by one',
      number: true,
      value: (row) => row.rank_correlation,
      cell: (row) => fixed(row.rank_correlation, 3),
    },
    {title: 'Neurons', number: true, hint: 'silenced', value: (row) => row.neurons, cell: (row) => number(row.neurons)},
    {title: 'Clips', number: true, value: (row) => row.clips, cell: (row) => number(row.clips)},
  ];
  return [
    el('h2', {}, `Causal map${ofSet(set)}`),
    el(
      'p',
      {},
      'First-order estimate of the change of a class’s margin when one neuron falls silent. ',
      entry.pairs
        ? `Of ${many(entry.pairs, 'pair')} of a class and a neuron specific to it, ${number(entry.helping)} estimates are negative: the neuron helps its class.`
        : '',
      ' The pages of classes and neurons show the estimate of each pair.',
    ),
    el(
      'figure',
      {},
      el(
        'figcaption',
        {},
        'Root mean square of the estimate by layer, logits: ',
        swatch(false),
        'all classes and neurons, ',
        swatch(true),
        'classes and the neurons specific to them.',
      ),
      columnsChart(
        [entry.all, entry.specific].map((values) => values.map((value) => value || 0)),
        {
          label: 'Root mean square of the estimated effect by layer: all neurons, and class-specific ones',
          place: String,
          format: (value) => number(value, 2),
          axis: 'layer',
        },
      ),
    ),
    entry.check.length > 0 && [
      el('h3', {}, 'Accuracy of the estimate'),
      dataTable(columns, entry.check, {
        caption: 'Rank correlation of the estimate with silencing neurons one by one',
      }),
    ],
  ];
}
