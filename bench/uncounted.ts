/**
 * A preload that takes counting out of the data path, for `bench/counters.ts`: requests are not counted, and the clock is not read.
 *
 *     node --import ./bench/uncounted.ts src/daemon/main.ts …
 *
 * Invariant: a change that finds nothing to take out is an error, so that nothing is compared with itself.
 */
import { registerHooks } from 'node:module';

/** By the end of a file's address: what is replaced. */
const CHANGES: Readonly<Record<string, readonly (readonly [from: string, to: string])[]>> = {
  '/src/dm/io-stats.ts': [
    ['    this.values[STARTED]!++;\n', ''],
    ['microseconds: number, errno: number): void {\n', 'microseconds: number, errno: number): void {\n    return;\n'],
  ],
  '/src/dm/turn-clock.ts': [
    ['  now(): number {\n', '  now(): number {\n    return 0;\n'],
    ['  since(then: number): number {\n', '  since(then: number): number {\n    return 0;\n'],
  ],
};

registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context);
    const changes = Object.entries(CHANGES).find(([end]) => url.endsWith(end))?.[1];
    if (changes === undefined) return loaded;
    let source = Buffer.from((loaded.source ?? '') as Uint8Array).toString();
    for (const [from, to] of changes) {
      if (!source.includes(from)) throw new Error(`${url}: there is no ${JSON.stringify(from)} to take out`);
      source = source.replace(from, to);
    }
    return { ...loaded, source };
  },
});
