/**
 * Reads the source text and checks what a reviewer should not have to: import directions between rooms (DESIGN: only
 * downward), the data path's rules, file headers, and that every file of src/ is reached from an entry.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, test } from 'node:test';

const ROOT = resolve(import.meta.dirname, '..');
const SRC = join(ROOT, 'src');

/** Which rooms each room may import; `native` holds the addon's one loader. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  native: [],
  ondisk: [],
  block: ['native'],
  dm: ['block', 'ondisk'],
  lvm: ['dm', 'block', 'ondisk', 'native'],
  nbd: ['dm'],
  observe: ['lvm', 'dm'],
  daemon: ['observe', 'nbd', 'lvm', 'dm', 'block', 'ondisk', 'native'],
  cli: ['lvm', 'ondisk', 'daemon', 'observe'],
};
/** What cli/ may use of daemon/: its client, its configuration and its flags (for the manual), never the running parts. */
const CLI_MAY_USE = /^daemon\/(client|config|flags)/;
/** External packages and the one room that imports each (docs/dependencies.md). */
const PACKAGE_ROOM: Record<string, RegExp> = {
  'buffer-layout': /^ondisk\//,
  'crc-32': /^ondisk\//,
  ioctl: /^block\/ioctl/,
  pino: /^daemon\//,
  commander: /^(daemon|cli)\//,
  'node-forge': /^cli\/tls\//,
  'smol-toml': /^daemon\//,
  zod: /^daemon\//,
};
/** Files that processes start with. */
const ENTRIES = /^(daemon\/(main|demo|worker\/main|tls\/main)|cli\/(main|hosted))\.ts$/;
/** Rooms whose code moves bytes, and the files there that are control plane and may await. */
const DATA_PATH = /^(block|dm|nbd)\//;

interface Source {
  readonly path: string;
  readonly text: string;
  /** The text without comments and string contents, for looking at code only. */
  readonly code: string;
  /** `lazy`: import() when it is needed, so no part of a cycle of loading. */
  readonly imports: readonly { specifier: string; typeOnly: boolean; lazy: boolean }[];
}

const sources: Source[] = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.ts') && !path.endsWith('.d.ts'))
  .sort()
  .map((path) => {
    const text = readFileSync(join(SRC, path), 'utf8');
    const imports = [
      ...text.matchAll(/^(?:import|export)\s+(type\s+)?[^;'"]*?from\s+'([^']+)'|import\('([^']+)'\)/gm),
    ].map((match) => ({
      specifier: match[2] ?? match[3] ?? '',
      typeOnly: match[1] !== undefined,
      lazy: match[3] !== undefined,
    }));
    const code = text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/\/\/.*$/gm, '');
    return { path, text, code, imports };
  });

function room(path: string): string {
  return path.split('/')[0] ?? '';
}

/** Fails with one line per finding, so that all are seen at once. */
function none(findings: readonly string[]): void {
  assert.equal(findings.length, 0, `\n${findings.join('\n')}`);
}

describe('tidy', () => {
  test('rooms import only downward', () => {
    const findings: string[] = [];
    for (const { path, imports } of sources) {
      for (const { specifier } of imports) {
        if (specifier.startsWith('node:')) continue;
        if (!specifier.startsWith('.')) {
          const name = specifier.split('/')[0] ?? '';
          if (!PACKAGE_ROOM[name]?.test(path))
            findings.push(`${path}: package ${specifier} does not belong in this room`);
          continue;
        }
        if (!specifier.endsWith('.ts')) findings.push(`${path}: ${specifier} must end in .ts`);
        const target = relative(SRC, resolve(SRC, dirname(path), specifier));
        if (room(target) === room(path)) continue;
        if (!(MAY_IMPORT[room(path)] ?? []).includes(room(target))) findings.push(`${path}: must not import ${target}`);
        else if (room(path) === 'cli' && room(target) === 'daemon' && !CLI_MAY_USE.test(target)) {
          findings.push(`${path}: cli may use only the daemon's client and configuration, not ${target}`);
        }
      }
    }
    none(findings);
  });

  test('no import cycles', () => {
    const edges = new Map(
      sources.map(({ path, imports }) => [
        path,
        imports
          .filter(({ specifier, typeOnly, lazy }) => specifier.startsWith('.') && !typeOnly && !lazy)
          .map(({ specifier }) => relative(SRC, resolve(SRC, dirname(path), specifier))),
      ]),
    );
    const state = new Map<string, 'open' | 'done'>();
    const findings: string[] = [];
    function visit(path: string, trail: readonly string[]): void {
      if (state.get(path) === 'done') return;
      if (state.get(path) === 'open') {
        findings.push([...trail.slice(trail.indexOf(path)), path].join(' -> '));
        return;
      }
      state.set(path, 'open');
      for (const next of edges.get(path) ?? []) visit(next, [...trail, path]);
      state.set(path, 'done');
    }
    for (const path of edges.keys()) visit(path, []);
    none(findings);
  });

  test('every file opens with what it is for', () => {
    none(sources.filter(({ text }) => !/^(#!.*\n)?\/\*\*/.test(text)).map(({ path }) => `${path}: no header comment`));
  });

  test('every file of src/ is reached from an entry', () => {
    const reached = new Set<string>();
    const pending = sources.map(({ path }) => path).filter((path) => ENTRIES.test(path));
    const byPath = new Map(sources.map((source) => [source.path, source]));
    while (pending.length > 0) {
      const path = pending.pop() ?? '';
      if (reached.has(path)) continue;
      reached.add(path);
      for (const { specifier } of byPath.get(path)?.imports ?? []) {
        if (specifier.startsWith('.')) pending.push(relative(SRC, resolve(SRC, dirname(path), specifier)));
      }
    }
    /** Test devices live with the devices that they imitate (DESIGN: block/). */
    const testDevices = /^block\/(memory|faulty|power-cut)/;
    none(
      sources
        .filter(({ path }) => !reached.has(path) && !testDevices.test(path))
        .map(({ path }) => `${path}: unreachable`),
    );
  });

  test('the data path makes no BigInt and joins no buffers', () => {
    const findings: string[] = [];
    for (const { path, code } of sources) {
      if (!DATA_PATH.test(path)) continue;
      for (const word of ['Buffer.concat', 'process.nextTick(() =>']) {
        if (code.includes(word)) findings.push(`${path}: ${word}`);
      }
      if (
        /\b\d+n\b|BigInt\(|\.(read|write|get|set)Big(U?)(Int|int)64/.test(code) &&
        !/^block\/(ioctl|open)/.test(path)
      ) {
        findings.push(`${path}: BigInt`);
      }
    }
    none(findings);
  });

  test('nothing gives up on types, errors or work', () => {
    const findings: string[] = [];
    const banned: readonly (readonly [string, RegExp])[] = [
      ['console', /\bconsole\./],
      ['any', /: any\b|\bas any\b|<any>/],
      ['double cast', /as unknown as/],
      ['ts-ignore', /@ts-(ignore|expect-error|nocheck)/],
      ['swallowed error', /catch\s*(\([^)]*\))?\s*\{\s*\}|\.catch\(\(\)\s*=>\s*(\{\s*\}|undefined|null)\)/],
      ['unfinished', /\b(TODO|FIXME|XXX)\b|not (yet )?implemented/i],
      ['default export', /^export default/m],
      ['enum or namespace', /^(export )?(const )?(enum|namespace)\s/m],
    ];
    for (const { path, text, code } of sources) {
      for (const [name, pattern] of banned)
        if (pattern.test(name === 'any' ? code : text)) findings.push(`${path}: ${name}`);
    }
    none(findings);
  });

  test('every dependency has its line in docs/dependencies.md', () => {
    const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Record<
      string,
      Record<string, string>
    >;
    const docs = readFileSync(join(ROOT, 'docs/dependencies.md'), 'utf8');
    const names = ['dependencies', 'devDependencies', 'optionalDependencies'].flatMap((key) =>
      Object.keys(manifest[key] ?? {}),
    );
    none(names.filter((name) => !docs.includes(name)).map((name) => `${name}: not in docs/dependencies.md`));
  });

  test('the lock file lets npm ci run on x64 and arm64', () => {
    const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as {
      packages: Record<
        string,
        {
          os?: string[] | string;
          cpu?: string[] | string;
          optional?: boolean;
          resolved?: string;
          integrity?: string;
          link?: boolean;
        }
      >;
    };
    const findings: string[] = [];
    for (const arch of ['x64', 'arm64']) {
      const entry = lock.packages[`node_modules/node-linux-${arch}`];
      if (entry === undefined || ![entry.cpu].flat().includes(arch) || entry.optional !== true)
        findings.push(`no optional node-linux-${arch}`);
    }
    for (const [name, entry] of Object.entries(lock.packages)) {
      if (name === '') continue;
      if ((entry.os !== undefined || entry.cpu !== undefined) && entry.optional !== true)
        findings.push(`${name}: bound to a platform but not optional`);
      if (entry.resolved !== undefined && !entry.resolved.startsWith('https://registry.npmjs.org/'))
        findings.push(`${name}: resolved names a host`);
      if (entry.integrity === undefined) findings.push(`${name}: no integrity`);
    }
    none(findings);
  });
});
