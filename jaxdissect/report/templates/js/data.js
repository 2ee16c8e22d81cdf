// The data of the page, and which of its classes, neurons and clips belong together.
const DATA = JSON.parse(document.getElementById('data').textContent);
const TYPES = {u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array};
const unpacked = new Map();

function bytesOf(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// The numbers of a packed array, decoded when they are first asked for.
function unpack(array) {
  if (!unpacked.has(array)) unpacked.set(array, new TYPES[array.type](bytesOf(array.data).buffer));
  return unpacked.get(array);
}

function finite(number) {
  return number === null || number === undefined || Number.isNaN(number) ? null : number;
}

// Places of each key.
function grouped(keys) {
  const groups = new Map();
  keys.forEach((key, place) => {
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(place);
  });
  return groups;
}

const {classes, neurons, pairs, top, clips} = DATA;
const SETS = DATA.label_sets;
const CLASSES = classes.name.length;
const NEURONS = neurons.layer.length;
const pairsOfClass = grouped(pairs.class);
const pairsOfNeuron = grouped(pairs.neuron);
const neuronAt = new Map(neurons.layer.map((layer, n) => [`${layer}/${neurons.neuron[n]}`, n]));
const classAt = new Map(classes.name.map((name, c) => [JSON.stringify([SETS[classes.set[c]], name]), c]));
const clipAt = new Map((clips.number || []).map((number, place) => [number, place]));
const gridAt = new Map(clips.grids ? clips.grids.place.map(([clip, n], place) => [`${clip}/${n}`, place]) : []);

const sizeOf = (c) => (pairsOfClass.get(c) || []).length;
const classesOfSet = (set) => [...Array(CLASSES).keys()].filter((c) => classes.set[c] === set);
const className = (c) => (SETS.length > 1 ? `${classes.name[c]} (${SETS[classes.set[c]]})` : classes.name[c]);
const classHref = (c) => `#class/${encodeURIComponent(SETS[classes.set[c]])}/${encodeURIComponent(classes.name[c])}`;
const neuronName = (n) => `${neurons.layer[n]} · ${neurons.neuron[n]}`;
const neuronHref = (n) => `#neuron/${neurons.layer[n]}/${neurons.neuron[n]}`;
const hasAudio = (clip) => Boolean(clipAt.has(clip) && clips.audio && clips.audio[clipAt.get(clip)]);
const pairValue = (name, p) => (pairs[name] ? finite(pairs[name][p]) : null);
const scoreOf = (name, set, n) => (neurons[name] && neurons[name][set] ? finite(neurons[name][set][n]) : null);

// Fraction of a class's tokens at which a neuron is active.
function probability(n, c) {
  return unpack(neurons.profile)[n * CLASSES + c] / (neurons.profile.type === 'u1' ? 255 : 65535);
}

// Neurons that two classes have in common.
function sharedNeurons(a, b) {
  const ofFirst = new Set((pairsOfClass.get(a) || []).map((p) => pairs.neuron[p]));
  return (pairsOfClass.get(b) || []).map((p) => pairs.neuron[p]).filter((n) => ofFirst.has(n));
}
