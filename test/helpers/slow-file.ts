/** A device that hangs, is slow, or fails, for real: a file of a FUSE file system whose server is stopped, made to wait, or made to fail. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { accepts, waitFor } from './daemon.ts';
import { runProgram } from './run.ts';

/** Names of files: a flush fails and removes the first one, writes fail while the second one is there, a read hangs and removes the third. */
interface Refusals {
  readonly flush: string;
  readonly writes: string;
  readonly read: string;
}

function refusalsIn(folder: string): Refusals {
  return {
    flush: join(folder, 'refuse-flush'),
    writes: join(folder, 'refuse-writes'),
    read: join(folder, 'hang-read'),
  };
}

/** Serves `image` as a file of a FUSE file system, until it is disposed of. */
export class SlowFile implements AsyncDisposable {
  readonly path: string;
  readonly #server: ChildProcess;
  readonly #fuse: ChildProcess;

  readonly #refusals: Refusals;

  private constructor(path: string, server: ChildProcess, fuse: ChildProcess) {
    this.path = path;
    this.#server = server;
    this.#fuse = fuse;
    this.#refusals = refusalsIn(dirname(dirname(path)));
  }

  /** `options`: what nbdkit's filters do: delay ("wdelay=10"), error ("error-pwrite=EIO"). */
  static mount(image: string, folder: string, options: readonly string[] = []): Promise<SlowFile> {
    return SlowFile.#mount(folder, ['--filter=delay', '--filter=error', 'file', image, ...options]);
  }

  /** A device of which a flush, or all writes, can fail: every request is carried out by a program, so it is slow. */
  static mountRefusing(image: string, folder: string): Promise<SlowFile> {
    const refusals = refusalsIn(folder);
    return SlowFile.#mount(folder, [
      'eval',
      `get_size=stat -L -c %s ${image}`,
      `pread=dd if=${image} skip=$4 count=$3 iflag=count_bytes,skip_bytes 2>/dev/null`,
      `pwrite=if [ -e ${refusals.writes} ]; then echo EIO >&2; exit 1; fi; dd of=${image} seek=$4 conv=notrunc oflag=seek_bytes 2>/dev/null`,
      `flush=if rm ${refusals.flush} 2>/dev/null; then echo EIO >&2; exit 1; fi`,
      'can_flush=exit 0',
      'can_write=exit 0',
    ]);
  }

  /** A device that hangs as soon as somebody reads behind `offset`, once. */
  static async mountHanging(image: string, folder: string, offset: number): Promise<SlowFile> {
    const { read } = refusalsIn(folder);
    await writeFile(read, '');
    return SlowFile.#mount(folder, [
      'eval',
      `get_size=stat -L -c %s ${image}`,
      `pread=if [ $4 -ge ${offset} ] && rm ${read} 2>/dev/null; then kill -STOP $PPID; fi; dd if=${image} skip=$4 count=$3 iflag=count_bytes,skip_bytes 2>/dev/null`,
    ]);
  }

  static async #mount(folder: string, plugin: readonly string[]): Promise<SlowFile> {
    const [socket, mount] = [join(folder, 'slow.sock'), join(folder, 'slow')];
    await mkdir(mount);
    const server = spawn('nbdkit', ['-f', '-U', socket, ...plugin], { stdio: 'ignore' });
    await waitFor('nbdkit to listen', () => accepts(socket));
    const fuse = spawn('nbdfuse', [`${mount}/`, '--unix', socket], { stdio: 'ignore' });
    await waitFor('the FUSE file', () => existsSync(join(mount, 'nbd')));
    return new SlowFile(join(mount, 'nbd'), server, fuse);
  }

  hang(): void {
    this.#server.kill('SIGSTOP');
  }
  goOn(): void {
    this.#server.kill('SIGCONT');
  }

  /** Whether a device of `mountHanging` has. */
  get hasHung(): boolean {
    return !existsSync(this.#refusals.read);
  }

  /** The next flush fails. */
  refuseFlush(): Promise<void> {
    return writeFile(this.#refusals.flush, '');
  }
  /** Whether it has. */
  get hasRefused(): boolean {
    return !existsSync(this.#refusals.flush);
  }
  refuseWrites(): Promise<void> {
    return writeFile(this.#refusals.writes, '');
  }
  takeWrites(): Promise<void> {
    return rm(this.#refusals.writes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.goOn();
    const ended = [once(this.#fuse, 'exit'), once(this.#server, 'exit')];
    await runProgram('fusermount3', ['-u', dirname(this.path)]);
    this.#fuse.kill();
    this.#server.kill();
    await Promise.all(ended);
  }
}
