// Class-specific neurons by layer, and scores of linear probes.
function viewLayers(set = 0) {
  if (!NEURONS)
    return [
      'Layers',
      note('No neuron is class-specific. Choose neurons with', DATA.commands.neurons),
      SETS.map((_, each) => depthsView(each)),
    ];
  const ofSet = classesOfSet(set);
  const counts = ofSet.map((c) => {
    const layers = Array(DATA.layers).fill(0);
    (pairsOfClass.get(c) || []).forEach((p) => {
      layers[neurons.layer[pairs.neuron[p]]] += 1;
    });
    return layers;
  });
  const covered = ofSet
    .map((c, place) => place)
    .filter((place) => counts[place].some(Boolean))
    .sort((a, b) => centre(counts[a]) - centre(counts[b]));
  const most = Math.max(1, ...counts.flat());
  const layers = [...Array(DATA.layers).keys()];
  const perLayer = layers.map(
    (layer) =>
      new Set(
        [...pairsOfClass]
          .filter(([c]) => classes.set[c] === set)
          .flatMap(([, list]) => list.map((p) => pairs.neuron[p]).filter((n) => neurons.layer[n] === layer)),
      ).size,
  );
  return [
    'Layers',
    el('p', {class: 'lead'}, 'Class-specific neurons of each layer. Layer 0 is the block next to the input.'),
    el(
      'div',
      {class: 'tools'},
      setChooser(set, [...SETS.keys()], (chosen) => show(() => viewLayers(chosen))),
    ),
    el(
      'figure',
      {},
      el('figcaption', {}, 'Neurons specific to at least one class, by layer.'),
      columnsChart([perLayer], {
        label: 'Class-specific neurons by layer',
        place: (layer) => String(layer),
        format: (value) => number(value),
        axis: 'layer',
      }),
    ),
    el('h2', {}, 'Neurons by layer and class'),
    covered.length
      ? [
          el(
            'p',
            {class: 'small'},
            `Classes with neurons, ordered by the mean layer of their neurons. Click a cell for the class.${ofSet.length > covered.length ? ` ${many(ofSet.length - covered.length, 'class', 'classes')} without neurons left out.` : ''}`,
          ),
          el(
            'div',
            {class: 'tools'},
            colourKey(sequential, '1', String(most), 'Neurons'),
            el('span', {class: 'key'}, 'grey: none'),
          ),
          heatmap({
            rows: layers.map((layer) => `layer ${layer}`),
            columns: covered.map((place) => classes.name[ofSet[place]]),
            square: false,
            most: 40,
            label: 'Class-specific neurons by layer and class',
            value: (r, c) => counts[covered[c]][r] || null,
            colour: (value) => sequential(most > 1 ? (value - 1) / (most - 1) : 1),
            describe: (r, c) => `${classes.name[ofSet[covered[c]]]}, layer ${r}: ${many(counts[covered[c]][r], 'neuron')}`,
            open: (r, c) => {
              location.hash = classHref(ofSet[covered[c]]);
            },
          }),
        ]
      : el('p', {}, 'No class of this label set has neurons.'),
    layersTable(set),
    depthsView(set),
  ];
}

// Scores of linear probes on the embedding after each layer.
function depthsView(set) {
  const entry = evidenceOf('depths', set);
  if (!entry) return null;
  const title = `Probe ${entry.metric} by layer${SETS.length > 1 ? ` (${SETS[set]})` : ''}`;
  const place = (depth) => `after ${many(depth, 'layer')}`;
  const columns = [
    ['test', 'Test', `mean over ${many(entry.probes, 'probe')}`],
    ['deviation', '±', 'standard deviation of the test score over the probes'],
    ['valid', 'Validation', 'clips that stop the training'],
    ['train', 'Training', 'clips that the probes learn from'],
  ].map(([name, title, hint]) => ({
    title,
    hint,
    number: true,
    value: (depth) => entry[name][depth],
    cell: (depth) => percent(entry[name][depth], 1),
  }));
  const layersRun = {title: 'Layers run', hint: '0: none', value: (depth) => depth, cell: (depth) => number(depth)};
  return [
    el('h2', {}, title),
    el(
      'figure',
      {},
      el(
        'figcaption',
        {},
        `Linear probes on the embedding after each layer. 0 layers: what enters layer 0; 1 layer: what leaves it. Line: ${entry.metric} on ${many(entry.clips, 'test clip')}, mean over ${many(entry.probes, 'probe')}. Band: ± standard deviation over the probes, on the same clips.`,
      ),
      lineChart(entry.test, entry.deviation, {
        label: title,
        place,
        format: (value) => percent(value, 1),
        axis: 'layers run',
      }),
    ),
    dataTable([layersRun, ...columns], [...entry.test.keys()], {caption: `${title}, from probe_layers.csv`}),
  ];
}

function centre(layers) {
  const total = layers.reduce((sum, count) => sum + count, 0);
  return layers.reduce((sum, count, layer) => sum + layer * count, 0) / total;
}
