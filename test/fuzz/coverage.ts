/**
 * Which lines of the server's code ran, from V8's own block coverage: what tells the fuzzer that an input is new.
 *
 * Invariants: a line counts as seen when some block that ran has a part on it, whatever V8 made blocks of.
 */
import { readFileSync } from 'node:fs';
import { Session } from 'node:inspector/promises';
import { fileURLToPath } from 'node:url';

const WATCHED = /\/src\/(nbd|dm|block)\//;

interface Source {
  /** Where each line begins. */
  readonly starts: readonly number[];
  /** 1 for lines that have ever run. */
  readonly seen: Uint8Array;
}

export class Coverage {
  readonly #session = new Session();
  readonly #sources = new Map<string, Source>();
  #size = 0;

  static async start(): Promise<Coverage> {
    const coverage = new Coverage();
    coverage.#session.connect();
    await coverage.#session.post('Profiler.enable');
    await coverage.#session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
    return coverage;
  }

  /** Lines that have ever run. */
  get size(): number {
    return this.#size;
  }

  /** How many lines ran since the last time that never ran before; with `keep` they count as seen. */
  async fresh(keep: boolean): Promise<number> {
    const { result } = await this.#session.post('Profiler.takePreciseCoverage');
    let found = 0;
    for (const { url, functions } of result) {
      if (!WATCHED.test(url)) continue;
      const source = this.#source(url);
      const ran = new Uint8Array(source.starts.length);
      for (const { ranges } of functions)
        for (const { startOffset, endOffset, count } of ranges)
          ran.fill(count > 0 ? 1 : 0, lineOf(source, startOffset), lineOf(source, endOffset - 1) + 1);
      for (const [line, did] of ran.entries()) {
        if (did === 0 || source.seen[line] === 1) continue;
        if (keep) source.seen[line] = 1;
        found++;
      }
    }
    if (keep) this.#size += found;
    return found;
  }

  async stop(): Promise<void> {
    await this.#session.post('Profiler.stopPreciseCoverage');
    this.#session.disconnect();
  }

  #source(url: string): Source {
    const known = this.#sources.get(url);
    if (known !== undefined) return known;
    const starts = [0];
    for (const { index } of readFileSync(fileURLToPath(url), 'utf8').matchAll(/\n/g)) starts.push(index + 1);
    const source = { starts, seen: new Uint8Array(starts.length) };
    this.#sources.set(url, source);
    return source;
  }
}

function lineOf({ starts }: Source, offset: number): number {
  let low = 0;
  let high = starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if (starts[middle]! <= offset) low = middle;
    else high = middle - 1;
  }
  return low;
}
