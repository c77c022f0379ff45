/**
 * Where log lines go: a file descriptor that may be slow to take them, or never take them, without the daemon waiting for that.
 *
 *     pipes and terminals   opened again, not blocking: what does not fit is kept and tried again
 *     sockets               written from the thread pool, one after the other (a socket can't be opened again)
 *     files                 written at once
 *
 * Invariants
 *  - The order of lines is kept, and every line is whole or missing.
 *  - At most MAX_QUEUED_BYTES are kept; what comes then is lost, and how much that was is told when there is room again.
 *  - At the exit of the process what is kept is written as far as it is taken within EXIT_PATIENCE_MS.
 *  - A reader that has gone is no error: nobody is left to tell.
 */
import { constants, fstatSync, openSync, write, writeSync } from 'node:fs';

const MAX_QUEUED_BYTES = 2 ** 20;
const RETRY_MS = 20;
const EXIT_PATIENCE_MS = 500;

type Kind = 'direct' | 'nonBlocking' | 'pooled';

export class LogSink {
  readonly #fd: number;
  readonly #kind: Kind;
  readonly #lostLine: (lines: number) => string;
  readonly #queue: Buffer[] = [];
  #queuedBytes = 0;
  #lost = 0;
  /** Another try is on its way. */
  #waiting = false;
  #gone = false;

  /** `lostLine` is the line that tells how many were lost. */
  constructor(fd: number, lostLine: (lines: number) => string) {
    const opened = openSink(fd);
    this.#fd = opened.fd;
    this.#kind = opened.kind;
    this.#lostLine = lostLine;
    process.on('exit', () => this.#writeRest());
  }

  /** Takes a line with its line feed. */
  write(line: string): void {
    if (this.#gone) return;
    const bytes = Buffer.from(line);
    if (this.#queuedBytes > 0 && this.#queuedBytes + bytes.length > MAX_QUEUED_BYTES) {
      this.#lost++;
      return;
    }
    if (this.#lost > 0 && this.#queuedBytes < MAX_QUEUED_BYTES / 2) {
      this.#keep(Buffer.from(this.#lostLine(this.#lost)));
      this.#lost = 0;
    }
    this.#keep(bytes);
    if (!this.#waiting) this.#writeSome();
  }

  #keep(bytes: Buffer): void {
    this.#queue.push(bytes);
    this.#queuedBytes += bytes.length;
  }

  #writeSome(): void {
    this.#waiting = false;
    if (this.#kind === 'pooled') {
      this.#writePooled();
      return;
    }
    while (this.#queue.length > 0) {
      if (this.#writeFirst()) continue;
      this.#waiting = true;
      setTimeout(() => this.#writeSome(), RETRY_MS).unref();
      return;
    }
  }

  /** False: it is not taken now. */
  #writeFirst(): boolean {
    const [first] = this.#queue;
    if (first === undefined) return true;
    try {
      this.#took(writeSync(this.#fd, first));
      return true;
    } catch (error) {
      return !this.#isRefused(error);
    }
  }

  #writePooled(): void {
    const [first] = this.#queue;
    if (first === undefined) return;
    this.#waiting = true;
    write(this.#fd, first, 0, first.length, null, (error, bytes) => {
      this.#waiting = false;
      if (error === null) this.#took(bytes);
      else if (this.#isRefused(error)) {
        this.#waiting = true;
        setTimeout(() => this.#writeSome(), RETRY_MS).unref();
        return;
      }
      this.#writeSome();
    });
  }

  #took(bytes: number): void {
    this.#queuedBytes -= bytes;
    const [first] = this.#queue;
    if (first === undefined || bytes >= first.length) this.#queue.shift();
    else this.#queue[0] = first.subarray(bytes);
  }

  /** Whether it may be taken later; if never, everything is dropped. */
  #isRefused(error: unknown): boolean {
    if (error instanceof Error && 'code' in error && error.code === 'EAGAIN') return true;
    this.#gone = true;
    this.#queue.length = 0;
    this.#queuedBytes = 0;
    return false;
  }

  #writeRest(): void {
    const end = performance.now() + EXIT_PATIENCE_MS;
    const nobody = new Int32Array(new SharedArrayBuffer(4));
    // What the pool has under way is not known: it may come twice, which is better than not at all.
    while (this.#queue.length > 0) {
      if (this.#writeFirst()) continue;
      if (performance.now() > end) return;
      Atomics.wait(nobody, 0, 0, RETRY_MS);
    }
  }
}

function openSink(fd: number): { readonly fd: number; readonly kind: Kind } {
  const stats = fstatSync(fd);
  if (stats.isSocket()) return { fd, kind: 'pooled' };
  if (!stats.isFIFO() && !stats.isCharacterDevice()) return { fd, kind: 'direct' };
  const { O_WRONLY, O_NONBLOCK, O_NOCTTY, O_APPEND } = constants;
  try {
    // A description of our own: that it does not block must not concern who else writes there.
    const own = openSync(`/proc/self/fd/${fd}`, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_APPEND);
    return { fd: own, kind: 'nonBlocking' };
  } catch {
    // Another user's terminal, or no /proc.
    return { fd, kind: 'pooled' };
  }
}
