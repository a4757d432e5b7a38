/** The normal distribution has 95 % of its values within this distance, in standard deviations. */
const DEVIATIONS = 1.96

/** Returns the 95 % interval of a share, by Wilson's formula, of which a random sample of `count` had `hits`. */
export function interval(hits: number, count: number): [least: number, most: number] {
  if (count === 0) return [0, 1]
  const share = hits / count
  const square = DEVIATIONS ** 2
  const middle = share + square / (2 * count)
  const reach = DEVIATIONS * Math.sqrt((share * (1 - share) + square / (4 * count)) / count)
  const of = (bound: number) => Math.min(1, Math.max(0, bound / (1 + square / count)))
  return [of(middle - reach), of(middle + reach)]
}
