// @ts-check
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const HEAD = `Code of these packages is in the files of this folder, under their own licences.
`
const RULE = '-'.repeat(100)

/**
 * Returns the name, version and licence of each npm package whose modules are bundled. Throws if a package has no licence file.
 * @param {string} root
 * @param {readonly string[]} modules paths of the bundled modules, relative to `root`
 */
export function notices(root, modules) {
  const folders = new Set(modules.flatMap(path => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path) ?? []))
  const texts = [...folders].sort().map(folder => {
    const { name, version, license } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8'))
    const file = readdirSync(join(root, folder)).find(entry => /^licen[cs]e(\.\w+)?$/i.test(entry))
    if (file === undefined)
      throw new Error(`${folder} has no licence file: find out its licence before you bundle it`)
    return `${RULE}\n${name} ${version} (${license})\n\n${readFileSync(join(root, folder, file), 'utf8').trim()}\n`
  })
  return [HEAD, ...texts].join('\n')
}
