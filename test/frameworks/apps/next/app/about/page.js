export default () => <p>A chair</p>
