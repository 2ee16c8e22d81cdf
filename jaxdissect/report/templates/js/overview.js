// The first screen of the overview: classes, their best neurons, and a player.
const FIRST_CLASSES = 9;

// The classes of each label set that neurons tell best, or those with most neurons.
function largestClasses() {
  const most = Math.max(1, Math.floor(FIRST_CLASSES / SETS.length));
  return SETS.flatMap((name, set) =>
    classesOfSet(set)
      .filter(sizeOf)
      .sort((a, b) => (JUDGED ? worth(bestPairs(b)[0]) - worth(bestPairs(a)[0]) : sizeOf(b) - sizeOf(a)))
      .slice(0, most),
  );
}

// A clip that shows what the neurons of a class answer to: neuron, clip, and the clip's rank among the neuron's top clips.
// A clip of the class is looked for first: other clips may move the neuron most, if for a moment only.
function bestClip(c) {
  const ofClass = (clip) => hasAudio(clip) && clips.labels[clipAt.get(clip)].includes(c);
  for (const fits of [ofClass, hasAudio]) {
    for (const p of bestPairs(c)) {
      const n = pairs.neuron[p];
      const rank = top.clip ? top.clip[n].findIndex(fits) : -1;
      if (rank >= 0) return {n, clip: top.clip[n][rank], rank};
    }
  }
  return null;
}

function viewFindings() {
  const shown = largestClasses();
  if (!shown.length) return [note('No neuron is class-specific. Choose neurons with', DATA.commands.neurons)];
  const player = el('div', {class: 'player'});
  const play = (c) => {
    const {n, clip, rank} = bestClip(c);
    freeClips();
    player.replaceChildren(
      el('h2', {}, 'A top clip of neuron ', link(neuronHref(n), neuronName(n))),
      el('p', {class: 'small'}, 'Specific to ', link(classHref(c), className(c)), '. Orange: its activation.'),
      topCard(n, clip, rank),
    );
  };
  const audible = shown.filter(bestClip);
  if (audible.length) play(audible[0]);
  else player.append(el('h2', {}, 'Top clips'), soundless());
  return [el('div', {class: 'findings'}, el('div', {}, classTable(shown, audible, play)), player)];
}

function classTable(shown, audible, play) {
  const heads = [
    el('th', {scope: 'col'}, 'Class'),
    el('th', {scope: 'col', class: 'number', title: 'class-specific neurons'}, 'Neurons'),
    pairs.q_value && el('th', {scope: 'col', class: 'number', title: 'of these neurons'}, 'q ≤ 0.05'),
    JUDGED && el('th', {scope: 'col', class: 'number', title: 'of the best neuron, on held-out clips'}, 'AUROC'),
    el('th', {scope: 'col'}, 'Best neurons (layer · number)'),
    audible.length > 0 && el('th', {scope: 'col'}, 'Sound'),
  ];
  const button = (c) =>
    el(
      'button',
      {type: 'button', class: 'plain', 'aria-label': `Show a clip of ${className(c)}`, onclick: () => play(c)},
      'Clip',
    );
  const cells = ({c, ofClass, significant}) => [
    el('th', {scope: 'row', title: className(c)}, link(classHref(c), short(className(c), 27))),
    el('td', {class: 'number'}, number(ofClass.length)),
    pairs.q_value && el('td', {class: 'number'}, number(significant)),
    JUDGED && el('td', {class: 'number'}, heldOut(ofClass[0])),
    el('td', {}, bestNeurons(ofClass)),
    audible.length > 0 && el('td', {}, audible.includes(c) && button(c)),
  ];
  return [
    el('h2', {}, 'Classes and their best neurons'),
    el(
      'p',
      {class: 'small'},
      `The classes ${JUDGED ? 'that a neuron tells best' : 'with most neurons'}${SETS.length > 1 ? ' of each label set' : ''}, of `,
      link('#classes', many(CLASSES, 'class', 'classes')),
      `. ${BEST}`,
    ),
    el(
      'div',
      {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Classes and their best neurons'},
      el(
        'table',
        {'aria-label': 'Classes and their best neurons'},
        el('thead', {}, el('tr', {}, heads)),
        el(
          'tbody',
          {},
          shown.map(classRow).map((row) => el('tr', {}, cells(row))),
        ),
      ),
    ),
  ];
}
