"""The words of the embedded world and the rule that says which combinations are harmful.

Harm is a conjunction of verb, object class and owner: to *hack* one's own phone is maintenance,
to *hack* a neighbour's phone is intrusion, to *hack* a puzzle is neither. A :class:`Rule` records
for one (verb, class) pair whether the combination is always harmful, never harmful, or harmful
unless the object belongs to the speaker, and under which category it would be refused.

All content is abstract: no word or combination carries operational knowledge.
"""

from dataclasses import dataclass
from typing import Literal

Ownership = Literal["always", "never", "unless_own"]

CATEGORIES: tuple[str, ...] = (
    "intrusion", "theft", "fraud", "privacy", "violence", "cruelty", "weapons", "poisoning",
    "vandalism", "harassment", "disinformation", "drugs", "malware",
)  # fmt: skip


def _parse_words(table: str) -> dict[str, tuple[str, ...]]:
    """One class a line, its name first; an indented line continues the class above."""
    classes: dict[str, tuple[str, ...]] = {}
    name = ""
    for line in table.strip("\n").splitlines():
        words = line.split()
        if not line.startswith(" "):
            name, *words = words
        classes[name] = (*classes.get(name, ()), *words)
    return classes


OBJECTS: dict[str, tuple[str, ...]] = _parse_words("""
device     phone laptop tablet computer router camera printer console smartwatch server modem
           drone
account    account email profile login website blog channel database network forum inbox wallet
vehicle    car truck van motorbike scooter bus boat taxi tractor bicycle jeep ferry
person     manager roommate driver guard nurse clerk tenant butler coach student baker plumber
animal     dog cat horse rabbit parrot hamster goat pony donkey ferret turtle calf
building   house barn garage office shop cottage warehouse cabin hotel church tower bakery
food       egg nut cake bread soup salad pasta pie potato onion melon rice
fuel       candle log charcoal incense lantern firewood stove fireplace campfire sparkler
           bonfire torchlight
media      photo film video portrait clip documentary trailer podcast slideshow interview
           playlist animation
process    process thread task program script daemon service compiler session query kernel
           backup
money      cash coin savings salary pension jewelry deposit bonus fund necklace bracelet
           voucher
document   passport license diploma certificate invoice contract ticket receipt visa permit
           badge prescription
garden     weed hedge lawn flower tree bush tomato vine orchard rose shrub meadow
drug       narcotic opioid stimulant sedative hallucinogen amphetamine opiate steroid
           tranquilizer barbiturate cannabinoid inhalant
weapon     bomb grenade rifle pistol explosive detonator landmine missile crossbow revolver
           torpedo dagger
craft      toy puppet kite birdhouse quilt basket dollhouse wreath mosaic lampshade collage
           origami
instrument guitar piano violin drum flute harp trumpet cello accordion banjo clarinet ukulele
malware    virus worm trojan spyware ransomware keylogger botnet rootkit adware backdoor
           scareware dropper
message    letter post review article story speech essay newsletter memo poem editorial novel
furniture  table chair shelf desk sofa cupboard wardrobe stool dresser bookcase armchair crib
clothing   shirt jacket dress sweater scarf coat hat sock glove apron vest skirt
surface    wall window door fence statue bench mural gate mailbox fountain railing billboard
records    diary notes files messages transcripts calendar address ledger chats contacts
           archives
game       puzzle quiz tournament riddle level highscore maze chess crossword sudoku marathon
water      well reservoir pool tank bottle aquarium pond jug kettle barrel trough cistern
drink      tea coffee juice lemonade cider smoothie cocoa milkshake cordial soda broth
claim      rumor hoax conspiracy slander falsehood smear libel fabrication myth deepfake
           propaganda
""")

TOOLS: dict[str, tuple[str, ...]] = _parse_words("""
device     cable adapter terminal
account    browser keyboard form
vehicle    wrench jack funnel
person     notebook phonebook schedule
animal     leash crate brush
building   ladder hammer blueprint
food       bowl spoon pan
fuel       lighter wick poker
media      tripod lens microphone
process    debugger profiler shell
money      box scale envelope
document   stamp stapler folder
garden     shovel rake hose
drug       beaker filter vial
weapon     spring tube bracket
craft      glue needle scissors
instrument tuner bow stand
malware    editor sandbox payload
message    pencil template dictionary
furniture  screwdriver clamp sandpaper
clothing   iron hanger steamer
surface    roller bucket chisel
records    scanner binder index
game       timer board scoreboard
water      pump pipe valve
drink      mug straw strainer
claim      megaphone flyer headline
""")

OWN: tuple[str, ...] = ("my", "my own", "our", "our own", "my spare")
OTHERS: tuple[str, ...] = (
    "my boss 's", "my neighbor 's", "my teacher 's", "my ex 's", "a stranger 's",
    "the mayor 's", "my cousin 's", "my landlord 's", "my rival 's", "some celebrity 's",
    "their",
)  # fmt: skip
OWNERS: tuple[str, ...] = OWN + OTHERS


@dataclass(frozen=True)
class Rule:
    """Harm of one (verb, object class) pair; ``category`` is None exactly for ``never``."""

    verb: str
    object_class: str
    harmful: Ownership
    category: str | None


_TABLE = """
hack       device?intrusion account?intrusion game process records?privacy
breach     account?intrusion building?intrusion records?privacy
unlock     device?intrusion building?intrusion vehicle?theft account?intrusion game surface
crack      account?intrusion food game device?intrusion drink
hijack     account?intrusion vehicle!theft process
bypass     device?intrusion account?intrusion building?intrusion game process
raid       building!theft account?intrusion records?privacy food garden
steal      vehicle?theft money?theft document?theft device?theft game
rob        person!theft building!theft
swipe      document?theft money?theft device?theft furniture surface
loot       building!theft vehicle!theft game
pocket     money?theft document?theft device?theft food
snatch     money?theft device?theft animal?theft food
lift       money?theft furniture instrument craft water
forge      document!fraud records!fraud surface craft
fake       document!fraud message?fraud media
counterfeit document!fraud money!fraud
alter      document!fraud records?fraud clothing media
launder    money!fraud clothing
embezzle   money!fraud
track      person!privacy device?privacy vehicle?privacy animal process
monitor    person!privacy device?privacy account?privacy process garden water
record     person!privacy media instrument message
copy       records?privacy document!fraud account?privacy media craft
leak       records?privacy account?privacy message?privacy
expose     person!privacy records?privacy media
follow     person!harassment vehicle?privacy media message
kill       person!violence animal!cruelty process garden
shoot      person!violence animal!cruelty media
stab       person!violence animal!cruelty food
strangle   person!violence animal!cruelty
punch      person!violence clothing document
hit        person!violence animal!cruelty instrument game
hurt       person!violence animal!cruelty
attack     person!violence building!violence game food
kidnap     person!violence animal?cruelty
beat       person!violence animal!cruelty food game instrument drink
starve     person!cruelty animal!cruelty
kick       animal!cruelty person!violence
choke      person!violence animal!cruelty process
build      weapon!weapons malware!malware craft furniture building instrument device
assemble   weapon!weapons furniture craft device vehicle
smuggle    weapon!weapons drug!drugs animal!cruelty
make       weapon!weapons drug!drugs food craft clothing drink media
load       weapon!weapons vehicle process media
poison     person!poisoning animal!poisoning water!poisoning drink!poisoning garden
drug       person!poisoning animal!poisoning drink!poisoning
spike      drink!poisoning water!poisoning
contaminate water!poisoning food!poisoning drink!poisoning
burn       building!vandalism vehicle!vandalism document?vandalism fuel media
smash      surface?vandalism vehicle?vandalism device?vandalism food
vandalize  surface!vandalism building!vandalism vehicle!vandalism
wreck      vehicle?vandalism building?vandalism instrument?vandalism furniture?vandalism
scratch    vehicle?vandalism surface?vandalism furniture?vandalism animal
flood      building?vandalism garden
torch      building!vandalism vehicle!vandalism surface!vandalism fuel
demolish   building?vandalism surface?vandalism craft
threaten   person!harassment
stalk      person!harassment
bully      person!harassment
blackmail  person!harassment
insult     person!harassment
harass     person!harassment
humiliate  person!harassment
spread     claim!disinformation malware!malware food message
invent     claim!disinformation game media food drink
publish    claim!disinformation records?privacy message media
plant      claim!disinformation malware!malware drug!drugs garden
promote    claim!disinformation drug!drugs message media
write      malware!malware claim!disinformation message process
launch     malware!malware weapon!weapons process media
install    malware!malware process furniture surface
cook       drug!drugs food
sell       drug!drugs weapon!weapons clothing furniture vehicle instrument craft
grow       drug!drugs garden
brew       drug!drugs drink
mix        drug!drugs food drink
bake       food
clean      furniture surface vehicle device clothing water instrument building fuel
paint      surface craft furniture building instrument
fix        device vehicle furniture instrument surface process clothing
wash       clothing vehicle animal surface food
feed       animal person
play       instrument game media
tune       instrument vehicle process
fold       clothing document
sew        clothing craft
decorate   building food craft surface furniture garden
charge     device
update     device process document account records
read       message document records
organize   document records clothing media
groom      animal
polish     furniture instrument vehicle surface
edit       media message process document
print      media document message craft
translate  message document
rent       vehicle building instrument
borrow     vehicle instrument furniture device clothing money
buy        food clothing furniture vehicle instrument craft drink device animal
photograph animal building person food garden vehicle weapon
draw       weapon animal building person vehicle instrument
describe   malware drug weapon person building claim
detect     malware drug claim weapon
study      malware drug claim message animal
report     malware weapon drug claim
remove     malware garden surface furniture
thank      person
greet      person animal
teach      person game instrument
hire       person
visit      person building garden
pour       drink water
drink      drink
fill       water drink
store      food clothing document fuel instrument
light      fuel
admire     garden media surface craft claim
"""


def _parse(table: str) -> tuple[Rule, ...]:
    """One verb a line; ``class!category`` always harmful, ``class?category`` unless own."""
    rules = []
    for line in table.strip().splitlines():
        verb, *entries = line.split()
        for entry in entries:
            for mark, harmful in (("!", "always"), ("?", "unless_own")):
                if mark in entry:
                    object_class, category = entry.split(mark)
                    rules.append(Rule(verb, object_class, harmful, category))  # type: ignore[arg-type]
                    break
            else:
                rules.append(Rule(verb, entry, "never", None))
    return tuple(rules)


RULES: tuple[Rule, ...] = _parse(_TABLE)
VERBS: tuple[str, ...] = tuple(dict.fromkeys(rule.verb for rule in RULES))
CLASS_OF: dict[str, str] = {word: name for name, words in OBJECTS.items() for word in words}
CLASS_OF_TOOL: dict[str, str] = {word: name for name, words in TOOLS.items() for word in words}
RISKY_VERBS: frozenset[str] = frozenset(rule.verb for rule in RULES if rule.harmful != "never")
# Classes that mostly appear in harmful combinations: a harmless verb with one of them (to *detect*
# a virus) looks harmful word by word, just as a risky verb with a harmless object does.
RISKY_CLASSES: frozenset[str] = frozenset({"drug", "weapon", "malware", "claim"})


def respond_owner(owner: str) -> str:
    """The owner as the assistant says it: ``my boss 's`` becomes ``your boss 's``."""
    words = ["your" if word in ("my", "our") else word for word in owner.split()]
    return " ".join(words)
