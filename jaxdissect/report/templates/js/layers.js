// Where in the encoder the class-specific neurons are.
function viewLayers(set = 0) {
  if (!NEURONS) return ['Layers', needs('No class-specific neurons are here. Choose them with', DATA.commands.neurons)];
  const own = classesOfSet(set);
  const counts = own.map((c) => {
    const layers = Array(DATA.layers).fill(0);
    (pairsOfClass.get(c) || []).forEach((p) => {
      layers[neurons.layer[pairs.neuron[p]]] += 1;
    });
    return layers;
  });
  const covered = own
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
    el('p', {class: 'lead'}, 'How many class-specific neurons each layer has. Layer 0 is the block next to the input.'),
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
    el('h2', {}, 'Layer by class'),
    covered.length
      ? [
          el(
            'p',
            {class: 'small'},
            `Classes with neurons, ordered by the mean layer of these. Click a cell for the class.${own.length > covered.length ? ` ${many(own.length - covered.length, 'class', 'classes')} without neurons left out.` : ''}`,
          ),
          el(
            'div',
            {class: 'tools'},
            colourKey(sequential, '1', String(most), 'Neurons'),
            el('span', {class: 'key'}, 'grey: none'),
          ),
          heatmap({
            rows: layers.map((layer) => `layer ${layer}`),
            columns: covered.map((place) => classes.name[own[place]]),
            square: false,
            most: 40,
            label: 'Class-specific neurons by layer and class',
            value: (r, c) => counts[covered[c]][r] || null,
            colour: (value) => sequential(most > 1 ? (value - 1) / (most - 1) : 1),
            tell: (r, c) => `${classes.name[own[covered[c]]]}, layer ${r}: ${many(counts[covered[c]][r], 'neuron')}`,
            open: (r, c) => {
              location.hash = classHref(own[covered[c]]);
            },
          }),
        ]
      : el('p', {}, 'No class of this label set has neurons.'),
    layersTable(set),
  ];
}

function centre(layers) {
  const total = layers.reduce((sum, count) => sum + count, 0);
  return layers.reduce((sum, count, layer) => sum + layer * count, 0) / total;
}
