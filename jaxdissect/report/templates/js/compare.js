// Comparison of two runs.
const swatch = (second) => el('span', {class: second ? 'swatch second' : 'swatch', 'aria-hidden': 'true'});

function compareFacts(run, second) {
  return el(
    'div',
    {},
    el('h2', {}, swatch(second), run.name),
    facts([
      ['Encoder', run.encoder, `${run.layers} layers of ${number(run.width)} neurons`],
      ['Task', run.task, `tokens: ${run.tokens}, preset ${run.preset}`],
      ...Object.entries(run.sets)
        .filter(([name, set]) => set.coverage && Object.hasOwn(DATA.own.sets, name))
        .flatMap(([name, {coverage}]) => [
          [
            `${name}: coverage`,
            percent(coverage.coverage),
            `${number(coverage.covered)} of ${number(coverage.classes)} classes`,
          ],
          [`${name}: neurons per class`, fixed(coverage.mean_neurons_per_class, 1), 'mean'],
          run.sets[name].probe && [
            `${name}: linear probe`,
            percent(run.sets[name].probe.test, 1),
            `${run.sets[name].probe.metric} on ${many(run.sets[name].probe.clips, 'test clip')}`,
          ],
        ]),
    ]),
  );
}

function compareSet(name, a, b) {
  const [own, other] = [a.sets[name], b.sets[name]];
  const place = new Map(other.classes.map((label, i) => [label, i]));
  const rows =
    own.size && other.size
      ? own.classes.map((label, i) => ({
          label,
          first: own.size[i],
          second: place.has(label) ? other.size[place.get(label)] : null,
        }))
      : [];
  const columns = [
    {
      title: 'Class',
      value: (row) => row.label,
      cell: (row) => link(`#class/${encodeURIComponent(name)}/${encodeURIComponent(row.label)}`, row.label),
    },
    {
      title: short(a.name, 24),
      number: true,
      hint: 'class-specific neurons',
      value: (row) => row.first,
      cell: (row) => number(row.first),
    },
    {
      title: short(b.name, 24),
      number: true,
      hint: 'class-specific neurons',
      value: (row) => row.second,
      cell: (row) => number(row.second),
    },
    {
      title: 'Difference',
      number: true,
      value: (row) => (row.second === null ? null : row.first - row.second),
      cell: (row) => (row.second === null ? '–' : signed(row.first - row.second, 0)),
    },
  ];
  const both = (key) => own[key] && other[key] && own[key].length === other[key].length;
  return [
    el('h2', {}, name),
    el(
      'div',
      {class: 'pair'},
      both('by_layer') &&
        el(
          'figure',
          {},
          el('figcaption', {}, 'Neurons specific to at least one class, by layer.'),
          columnsChart([own.by_layer, other.by_layer], {
            label: `Class-specific neurons by layer, ${name}`,
            place: String,
            format: (value) => number(value),
            axis: 'layer',
          }),
        ),
      both('histogram') &&
        el(
          'figure',
          {},
          el('figcaption', {}, 'All neurons by normalised AAPE: 0: answers to one class, 1: to all classes alike.'),
          columnsChart([own.histogram, other.histogram], {
            label: `Neurons by normalised AAPE, ${name}`,
            place: (bin) => fixed(bin / own.histogram.length, 2),
            format: (value) => number(Math.round(value)),
            axis: 'normalised AAPE',
          }),
        ),
    ),
    rows.length > 0 &&
      dataTable(columns, rows, {
        caption: `Class-specific neurons per class, ${name}`,
        placeholder: 'Search classes',
        search: (row) => row.label,
        shown: 25,
        sort: [1, true],
      }),
  ];
}

function viewCompare() {
  if (!DATA.other)
    return ['Compare', note('This report is of one run. To compare it with another run, use', DATA.commands.compare)];
  const [a, b] = [DATA.own, DATA.other];
  const common = Object.keys(a.sets).filter((name) => Object.hasOwn(b.sets, name));
  return [
    'Compare',
    el(
      'p',
      {class: 'lead'},
      'Numbers of neurons are comparable only if both runs chose them by the same rule, from the same clips.',
    ),
    a.preset !== b.preset && note('The two runs chose neurons by different presets.'),
    a.tokens !== b.tokens && note('The two runs counted different tokens.'),
    el('div', {class: 'pair'}, compareFacts(a, false), compareFacts(b, true)),
    common.length
      ? common.map((name) => compareSet(name, a, b))
      : note('The two runs have no label set in common.'),
  ];
}
