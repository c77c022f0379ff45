/**
 * `npm start`: serves what is configured; with nothing configured, makes the demo volume group in image files under ./var
 * (once), serves it on a unix socket there and on 127.0.0.1:10809, and says what to try next. Needs no root.
 *
 * Invariant: what is printed can be pasted: every command names this machine's own paths and ports.
 */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join, relative, resolve } from 'node:path';
import { styleText } from 'node:util';
import type { Daemon } from './compose.ts';
import { loadSettings, processSurroundings, readConfigFile, type Settings, type Surroundings } from './config.ts';
import { DEMO_NOTES, DEMO_VG, ensureDemo } from './demo-volume-group.ts';
import { codeOf } from './errors.ts';
import type { Flags } from './flags.ts';
import { type ListenAddress, NBD_PORT, nbdUri } from './listen-uri.ts';
import { explained, runDaemon, serve } from './run.ts';

const HOST = '127.0.0.1';

process.exitCode = await start(process.argv.slice(2));

async function start(args: readonly string[]): Promise<number> {
  const around = processSurroundings();
  return explained(async () => {
    if (args.length > 0 || isConfigured(around)) return runDaemon(args);
    return serveDemo(around);
  });
}

function isConfigured(around: Surroundings): boolean {
  return (around.env['ORION_LVM_DEVICES'] ?? '') !== '' || readConfigFile(undefined, around) !== null;
}

async function serveDemo(around: Surroundings): Promise<number> {
  const folder = resolve(around.cwd, 'var/demo');
  const { created, images } = await ensureDemo(folder);
  const tcp = await choosePort();
  const flags: Flags = {
    devices: images,
    listen: [`unix:${resolve(around.cwd, 'var/nbd.sock')}`, ...(tcp === null ? [] : [tcp])],
    control: resolve(around.cwd, 'var/control.sock'),
    logLevel: 'warn',
    workers: 0,
  };
  const load = (): Settings => ({ ...loadSettings(flags, around), runDir: null });
  const code = await serve({
    settings: load(),
    load,
    onReady: (daemon) => {
      process.stdout.write(`${welcome(daemon, { created, images, cwd: around.cwd, folder })}\n`);
    },
  });
  if (code === 0) process.stdout.write('Stopped. Everything that was written is on disk.\n');
  return code;
}

/** The TCP address to listen on: NBD's port, any other if that is taken, none if there is no IPv4 loopback. */
async function choosePort(): Promise<string | null> {
  const probe = createServer();
  try {
    probe.listen(NBD_PORT, HOST);
    await once(probe, 'listening');
    return `tcp:${HOST}:${NBD_PORT}`;
  } catch (error) {
    if (codeOf(error) !== 'EADDRINUSE') return null;
    say(`Port ${NBD_PORT} of ${HOST} is taken, so another one is used.`);
    return `tcp:${HOST}:0`;
  } finally {
    probe.close();
  }
}

function say(text: string): void {
  process.stdout.write(`${styleText('yellow', text)}\n`);
}

interface Demo {
  readonly created: boolean;
  readonly images: readonly string[];
  readonly cwd: string;
  readonly folder: string;
}

function welcome(daemon: Daemon, demo: Demo): string {
  const { exports } = daemon.status();
  const where = `${demo.images.length} image files in ${short(demo.folder, demo)}`;
  const made = demo.created ? 'made just now' : 'made earlier and kept';
  const rows = exports.map(({ name, sizeBytes = 0, readOnly, state, reason }) => {
    const size = `${Math.round(sizeBytes / 2 ** 20)} MiB`.padStart(8);
    return `  ${styleText('bold', name.padEnd(14))} ${size}  ${state === 'active' ? access(readOnly) : (reason ?? state)}`;
  });
  const uris = daemon.listening.map((address) => `  ${styleText('cyan', nbdUri(address, `${DEMO_VG}/data`))}`);
  return [
    '',
    `${styleText('bold', 'Orion LVM')} serves the volume group ${DEMO_VG}: ${where}, ${made}.`,
    '',
    ...rows,
    '',
    'An export is named VG/LV:',
    ...uris,
    '',
    'Try in another terminal:',
    ...suggestions(daemon, demo),
    '',
    'Ctrl-C stops it, after everything in flight is finished and flushed.',
  ].join('\n');
}

function access(readOnly: boolean | undefined): string {
  return readOnly === true ? 'read-only' : 'read and write';
}

function suggestions(daemon: Daemon, demo: Demo): readonly string[] {
  const [unix, tcp] = daemon.listening;
  if (unix?.kind !== 'unix') return [];
  const uri = (lv?: string): string => `'${nbdUri(unix, lv === undefined ? undefined : `${DEMO_VG}/${lv}`)}'`;
  const devices = demo.images.map((image) => short(image, demo)).join(',');
  const network: readonly (readonly [string, string])[] = tcp === undefined ? [] : overNetwork(tcp);
  const commands: readonly (readonly [string, string])[] = [
    ['what there is (package libnbd-bin)', `nbdinfo --list ${uri()}`],
    ['read a volume', `nbdcopy ${uri('notes')} - | head -c ${DEMO_NOTES.length}`],
    ['copy something in', `nbdcopy --flush README.md ${uri('data')}`],
    ['an image of one (qemu-utils)', `qemu-img convert -p -O qcow2 ${uri('big')} var/big.qcow2`],
    [
      'a disk of a virtual machine',
      `qemu-system-x86_64 -m 1G -drive ${uri('stripes').replace("'", "'file=").replace(/'$/, ",format=raw,if=virtio'")}`,
    ],
    ...network,
    ['what LVM2 would say', `bin/orion-lvm lvs --devices ${devices} -o +devices`],
    [
      'what the daemon says',
      `curl --unix-socket ${short(join(demo.folder, '../control.sock'), demo)} http://localhost/v1/status`,
    ],
  ];
  return commands.flatMap(([what, command]) => [`  ${styleText('dim', `# ${what}`)}`, `  ${command}`]);
}

/** The kernel's client, where there is one: as root, with the nbd module. */
function overNetwork(tcp: ListenAddress): readonly (readonly [string, string])[] {
  if (tcp.kind !== 'tcp') return [];
  const command = `nbd-client ${tcp.host} ${tcp.port} /dev/nbd0 -N ${DEMO_VG}/data && mkfs.ext4 /dev/nbd0`;
  return [['a block device of this machine (as root, with the nbd module)', command]];
}

function short(path: string, { cwd }: Demo): string {
  const fromHere = relative(cwd, path);
  return fromHere.startsWith('..') ? path : fromHere;
}
