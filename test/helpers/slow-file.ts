/** A device that hangs, is slow, or fails, for real: a file of a FUSE file system whose server is stopped, made to wait, or made to fail. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { accepts, waitFor } from './daemon.ts';
import { runProgram } from './run.ts';

/** Serves `image` as a file of a FUSE file system, until it is disposed of. */
export class SlowFile implements AsyncDisposable {
  readonly path: string;
  readonly #server: ChildProcess;
  readonly #fuse: ChildProcess;

  private constructor(path: string, server: ChildProcess, fuse: ChildProcess) {
    this.path = path;
    this.#server = server;
    this.#fuse = fuse;
  }

  /** `options`: what nbdkit's filters do: delay ("wdelay=10"), error ("error-pwrite=EIO"). */
  static async mount(image: string, folder: string, options: readonly string[] = []): Promise<SlowFile> {
    const [socket, mount] = [join(folder, 'slow.sock'), join(folder, 'slow')];
    await mkdir(mount);
    const filters = ['--filter=delay', '--filter=error'];
    const server = spawn('nbdkit', ['-f', '-U', socket, ...filters, 'file', image, ...options], { stdio: 'ignore' });
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

  async [Symbol.asyncDispose](): Promise<void> {
    this.goOn();
    const ended = [once(this.#fuse, 'exit'), once(this.#server, 'exit')];
    await runProgram('fusermount3', ['-u', dirname(this.path)]);
    this.#fuse.kill();
    this.#server.kill();
    await Promise.all(ended);
  }
}
