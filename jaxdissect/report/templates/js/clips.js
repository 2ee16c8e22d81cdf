// Clips to see and hear.
const OVERLAY = [255, 140, 0];
const opacity = (level) => (level ? 0.08 + 0.77 * level : 0);
let urls = [];

function freeClips() {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
}

function audioSource(clip) {
  if (DATA.beside) return `clips/${clip}.${clips.ending}`;
  const url = URL.createObjectURL(
    new Blob([bytesOf(document.getElementById(`audio-${clip}`).textContent)], {type: clips.mime}),
  );
  urls.push(url);
  return url;
}

function pictureSource(clip) {
  if (DATA.beside) return `clips/${clip}.png`;
  return `data:image/png;base64,${document.getElementById(`picture-${clip}`).textContent}`;
}

// The activation of a neuron over the picture; strong activations are opaque.
function overlay(clip, n) {
  const place = gridAt.get(`${clip}/${n}`);
  if (place === undefined) return null;
  const {levels, start, stop} = clips.grids;
  const [, bands, columns] = levels.shape;
  const values = unpack(levels);
  const canvas = el('canvas', {class: 'overlay', width: 640, height: bands * 32, 'aria-hidden': 'true'});
  const pen = canvas.getContext('2d');
  for (let band = 0; band < bands; band += 1) {
    for (let column = 0; column < columns; column += 1) {
      const level = values[(place * bands + band) * columns + column] / 255;
      if (!level) continue;
      const left = Math.round((640 * start[column]) / clips.unit_seconds);
      const right = Math.round((640 * stop[column]) / clips.unit_seconds);
      pen.fillStyle = `rgb(${OVERLAY.join(' ')} / ${opacity(level)})`;
      pen.fillRect(left, (bands - 1 - band) * 32, right - left, 32);
    }
  }
  return canvas;
}

function follow(audio, mel, cursor) {
  const place = () => {
    cursor.style.left = `${(100 * audio.currentTime) / clips.unit_seconds}%`;
  };
  const step = () => {
    place();
    if (!audio.paused && audio.isConnected) requestAnimationFrame(step);
  };
  audio.addEventListener('play', () => {
    document.querySelectorAll('audio').forEach((other) => {
      if (other !== audio) other.pause();
    });
    mel.classList.add('started');
    step();
  });
  for (const event of ['seeked', 'timeupdate', 'pause', 'ended']) audio.addEventListener(event, place);
  mel.addEventListener('click', (event) => {
    const rect = mel.getBoundingClientRect();
    const wanted = (clips.unit_seconds * (event.clientX - rect.left)) / rect.width;
    audio.currentTime = Math.min(wanted, finite(audio.duration) === null ? wanted : audio.duration);
    audio.play().catch(() => {});
  });
}

const seconds = (value) => `${plain(value)} s`;
const hertz = (value) => (value >= 1000 ? `${plain(value / 1000)} kHz` : `${plain(value)} Hz`);

// A card: title, labels and file of a clip, its picture with the activation of neuron n (null: none), and its player.
function clipCard(clip, n, title, more) {
  const at = clipAt.get(clip);
  const labels = clips.labels[at];
  const why = clips.unreadable && clips.unreadable[String(clip)];
  const head = [
    el(
      'h3',
      {},
      title,
      ' ',
      labels.map((c, place) => [place ? ', ' : '', link(classHref(c), className(c))]),
    ),
    el('p', {class: 'muted'}, [more, clips.file[at]].filter(Boolean).join(' · ')),
  ];
  if (!hasAudio(clip)) return el('article', {class: 'clip'}, head, why && el('p', {}, `Cannot be heard: ${why}.`));
  const padding = el('div', {class: 'padding', title: 'padding after the end of the recording'});
  padding.style.left = `${(100 * clips.seconds[at]) / clips.unit_seconds}%`;
  const cursor = el('div', {class: 'cursor'});
  const unit = clips.unit_seconds;
  const mel = el(
    'div',
    {class: 'mel'},
    el('img', {
      src: pictureSource(clip),
      alt: `Log-mel spectrogram of ${clips.file[at]}, 0 to ${seconds(unit)}, ${hertz(clips.low_hz)} to ${hertz(clips.high_hz)}`,
    }),
    n !== null && overlay(clip, n),
    el('span', {class: 'hertz high', 'aria-hidden': 'true'}, hertz(clips.high_hz)),
    el('span', {class: 'hertz low', 'aria-hidden': 'true'}, hertz(clips.low_hz)),
    padding,
    cursor,
  );
  const unplayable = el('p', {hidden: true}, 'This browser cannot play this kind of sound.');
  const audio = el('audio', {
    controls: true,
    preload: DATA.beside ? 'none' : 'metadata',
    src: audioSource(clip),
    'aria-label': `Play ${clips.file[at]}`,
    onerror: () => {
      unplayable.hidden = false;
    },
  });
  follow(audio, mel, cursor);
  return el(
    'article',
    {class: 'clip'},
    head,
    mel,
    el(
      'div',
      {class: 'axis', 'aria-hidden': 'true'},
      el('span', {}, '0 s'),
      el('span', {}, seconds(unit / 2)),
      el('span', {}, seconds(unit)),
    ),
    audio,
    unplayable,
  );
}

const soundless = () => note('This report has no sound: see “Left out of this report” in the overview.');
