import { chmodSync, mkdirSync, mkdtempSync, readdirSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { procText } from '../processes/proc-file.js'

/** The loader of the fixtures keeps compiled sources there, for every file and every run. */
const COMPILED = /^tsx-\d+$/

/** As `/tmp`: another user reaches what a test gives it. The name is short, as the path of a socket is. */
export function temporaryFolder(prefix: string): string {
  const shared = tmpdir()
  const made = mkdtempSync(join(shared, prefix))
  chmodSync(made, 0o1777)
  const compiled = `tsx-${process.getuid!()}`
  mkdirSync(join(shared, compiled), { recursive: true })
  symlinkSync(join(shared, compiled), join(made, compiled))
  return made
}

/** The names in a temporary folder that are of tests. */
export function entriesOf(folder: string): string[] {
  return readdirSync(folder).filter(name => !COMPILED.test(name))
}

/** Begins the name of the temporary folder of a file that has a process of its own. */
export const OF_FILE = 'f-'

/** As {@link entriesOf}, with the entries of the files' folders instead of these: the last hook of a file whose tests are all left out does not run. */
export function entriesWithFiles(folder: string): string[] {
  return entriesOf(folder).flatMap(name =>
    name.startsWith(OF_FILE) ? entriesOf(join(folder, name)).map(entry => `${name}/${entry}`) : [name],
  )
}

/** The processes that inherited the mark, under any parent. */
export function processesWith(mark: string): string[] {
  return describe(pid => procText(pid, 'environ').includes(mark) && !isChild(pid))
}

/** The children of this process. */
export function children(): string[] {
  return describe(isChild)
}

function describe(which: (pid: string) => boolean): string[] {
  return readdirSync('/proc')
    .filter(entry => /^\d+$/.test(entry) && Number(entry) !== process.pid && which(entry))
    .map(pid => `${pid} ${procText(pid, 'cmdline').replaceAll('\0', ' ')}`)
}

function isChild(pid: string): boolean {
  const stat = procText(pid, 'stat')
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === process.pid
}
