import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

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
  return describe(pid => !isChild(pid) && textOf(pid, 'environ').includes(mark))
}

/** The children of this process. */
export function children(): string[] {
  return describe(isChild)
}

function describe(which: (pid: string) => boolean): string[] {
  return readdirSync('/proc')
    .filter(entry => /^\d+$/.test(entry) && Number(entry) !== process.pid && which(entry))
    .map(pid => `${pid} ${textOf(pid, 'cmdline').replaceAll('\0', ' ')}`)
}

function isChild(pid: string): boolean {
  const stat = textOf(pid, 'stat')
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === process.pid
}

/** A file of a process in /proc; '' of one that has ended or is another user's. */
function textOf(pid: string, name: 'environ' | 'cmdline' | 'stat'): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'latin1')
  } catch {
    return ''
  }
}
