"""The words of the Chinese-English demonstration grammar: plain tables, read by `corpora.translations_grammar`."""

from typing import Literal, NamedTuple

Agreement = Literal["I", "she", "they"]


class Pronoun(NamedTuple):
    zh: str
    subject: str
    object: str
    possessive: str
    agreement: Agreement
    plural: bool = False


PRONOUNS = (
    Pronoun("我", "I", "me", "my", "I"),
    Pronoun("你", "you", "you", "your", "they"),
    Pronoun("他", "he", "him", "his", "she"),
    Pronoun("她", "she", "her", "her", "she"),
    Pronoun("我們", "we", "us", "our", "they", True),
    Pronoun("你們", "you", "you", "your", "they", True),
    Pronoun("他們", "they", "them", "their", "they", True),
    Pronoun("她們", "they", "them", "their", "they", True),
)

WOMEN = {"瑪麗": "Mary", "安娜": "Anna", "麗莎": "Lisa", "愛麗絲": "Alice"}
MEN = {"湯姆": "Tom", "小明": "Ming", "約翰": "John", "大衛": "David"}
NAMES = WOMEN | MEN

FIELDS = {
    "機器學習": "machine learning",
    "人工智慧": "artificial intelligence",
    "人工智能": "artificial intelligence",
    "深度學習": "deep learning",
    "自然語言處理": "natural language processing",
    "機器翻譯": "machine translation",
    "電腦科學": "computer science",
    "資料科學": "data science",
    "程式設計": "programming",
    "語言學": "linguistics",
    "統計學": "statistics",
    "經濟學": "economics",
    "生物學": "biology",
    "心理學": "psychology",
    "數學": "mathematics",
    "物理": "physics",
    "化學": "chemistry",
    "哲學": "philosophy",
    "歷史": "history",
    "文學": "literature",
    "藝術": "art",
    "音樂": "music",
    "法律": "law",
    "中文": "Chinese",
    "英文": "English",
    "日文": "Japanese",
}

DRINKS = {"水": "water", "茶": "tea", "咖啡": "coffee", "牛奶": "milk", "果汁": "juice", "啤酒": "beer"}
FOODS = {"米飯": "rice", "麵包": "bread", "肉": "meat", "巧克力": "chocolate"}
MASS = {"field": FIELDS, "drink": DRINKS, "food": FOODS}


class Noun(NamedTuple):
    zh: str
    singular: str
    plural: str
    classifiers: str
    kind: str


NOUNS = (
    Noun("老師", "teacher", "teachers", "個位", "person"),
    Noun("學生", "student", "students", "個位", "person"),
    Noun("醫生", "doctor", "doctors", "個位", "person"),
    Noun("護士", "nurse", "nurses", "個位", "person"),
    Noun("朋友", "friend", "friends", "個位", "person"),
    Noun("孩子", "child", "children", "個", "person"),
    Noun("男孩", "boy", "boys", "個", "person"),
    Noun("女孩", "girl", "girls", "個", "person"),
    Noun("記者", "journalist", "journalists", "個位", "person"),
    Noun("作家", "writer", "writers", "個位", "person"),
    Noun("歌手", "singer", "singers", "個位", "person"),
    Noun("工程師", "engineer", "engineers", "個位", "person"),
    Noun("科學家", "scientist", "scientists", "個位", "person"),
    Noun("研究員", "researcher", "researchers", "個位", "person"),
    Noun("司機", "driver", "drivers", "個位", "person"),
    Noun("農民", "farmer", "farmers", "個位", "person"),
    Noun("律師", "lawyer", "lawyers", "個位", "person"),
    Noun("經理", "manager", "managers", "個位", "person"),
    Noun("鄰居", "neighbour", "neighbours", "個位", "person"),
    Noun("同學", "classmate", "classmates", "個位", "person"),
    Noun("書", "book", "books", "本", "text"),
    Noun("小說", "novel", "novels", "本", "text"),
    Noun("雜誌", "magazine", "magazines", "本", "text"),
    Noun("報紙", "newspaper", "newspapers", "份", "text"),
    Noun("信", "letter", "letters", "封", "text"),
    Noun("文章", "article", "articles", "篇", "text"),
    Noun("蘋果", "apple", "apples", "個", "food"),
    Noun("香蕉", "banana", "bananas", "根", "food"),
    Noun("橘子", "orange", "oranges", "個", "food"),
    Noun("蛋糕", "cake", "cakes", "個", "food"),
    Noun("雞蛋", "egg", "eggs", "個", "food"),
    Noun("三明治", "sandwich", "sandwiches", "個", "food"),
    Noun("帽子", "hat", "hats", "頂", "thing"),
    Noun("裙子", "skirt", "skirts", "條", "thing"),
    Noun("襯衫", "shirt", "shirts", "件", "thing"),
    Noun("大衣", "coat", "coats", "件", "thing"),
    Noun("雨傘", "umbrella", "umbrellas", "把", "thing"),
    Noun("鑰匙", "key", "keys", "把", "thing"),
    Noun("照片", "photo", "photos", "張", "thing"),
    Noun("禮物", "gift", "gifts", "份", "thing"),
    Noun("杯子", "cup", "cups", "個", "thing"),
    Noun("背包", "backpack", "backpacks", "個", "thing"),
    Noun("手錶", "watch", "watches", "塊", "thing"),
    Noun("手機", "phone", "phones", "部", "thing"),
    Noun("電腦", "computer", "computers", "台", "thing"),
    Noun("相機", "camera", "cameras", "台", "thing"),
    Noun("自行車", "bicycle", "bicycles", "輛", "thing"),
    Noun("車", "car", "cars", "輛", "thing"),
    Noun("桌子", "table", "tables", "張", "thing"),
    Noun("椅子", "chair", "chairs", "把", "thing"),
    Noun("盒子", "box", "boxes", "個", "thing"),
    Noun("狗", "dog", "dogs", "隻", "animal"),
    Noun("貓", "cat", "cats", "隻", "animal"),
    Noun("鳥", "bird", "birds", "隻", "animal"),
    Noun("馬", "horse", "horses", "匹", "animal"),
    Noun("電影", "film", "films", "部", "film"),
    Noun("歌", "song", "songs", "首", "song"),
)

SURFACES = {"桌子": "table", "椅子": "chair", "床": "bed", "書架": "bookshelf"}
CONTAINERS = {"盒子": "box", "背包": "backpack", "房間": "room", "車": "car", "箱子": "suitcase"}


class Determiner(NamedTuple):
    zh: str
    en: str
    plural: bool
    classifier: bool = True


DETERMINERS = (
    Determiner("一", "a", False),
    Determiner("這", "this", False),
    Determiner("那", "that", False),
    Determiner("每", "every", False),
    Determiner("這些", "these", True, classifier=False),
    Determiner("那些", "those", True, classifier=False),
    Determiner("很多", "many", True, classifier=False),
)
NUMBERS = {
    "兩": "two", "三": "three", "四": "four", "五": "five", "六": "six",
    "七": "seven", "八": "eight", "九": "nine", "十": "ten",
}  # fmt: skip
COUNTED = tuple(Determiner(zh, en, True) for zh, en in NUMBERS.items())


class Verb(NamedTuple):
    """`forms` are the base, third person, past, participle and gerund; the particle follows each of them."""

    zh: str
    forms: str
    objects: str = ""
    particle: str = ""
    stative: bool = False


THINGS = "text food thing animal"
ALL = "text food drink thing animal film song field person"

VERBS = (
    Verb("讀", "read reads read read reading", "text"),
    Verb("寫", "write writes wrote written writing", "text"),
    Verb("吃", "eat eats ate eaten eating", "food"),
    Verb("喝", "drink drinks drank drunk drinking", "drink"),
    Verb("看", "watch watches watched watched watching", "film"),
    Verb("聽", "listen listens listened listened listening", "song", "to"),
    Verb("唱", "sing sings sang sung singing", "song"),
    Verb("買", "buy buys bought bought buying", f"{THINGS} drink"),
    Verb("賣", "sell sells sold sold selling", f"{THINGS} drink"),
    Verb("使用", "use uses used used using", "thing"),
    Verb("修理", "repair repairs repaired repaired repairing", "thing"),
    Verb("找到", "find finds found found finding", THINGS),
    Verb("看見", "see sees saw seen seeing", f"{THINGS} person"),
    Verb("幫助", "help helps helped helped helping", "person"),
    Verb("邀請", "invite invites invited invited inviting", "person"),
    Verb("批評", "criticise criticises criticised criticised criticising", "person"),
    Verb("等", "wait waits waited waited waiting", "person", "for"),
    Verb("照顧", "look looks looked looked looking", "person animal", "after"),
    Verb("學習", "study studies studied studied studying", "field"),
    Verb("研究", "research researches researched researched researching", "field"),
    Verb("教", "teach teaches taught taught teaching", "field"),
    Verb("討論", "discuss discusses discussed discussed discussing", "field film text"),
    Verb("喜歡", "like likes liked liked liking", ALL, stative=True),
    Verb("愛", "love loves loved loved loving", ALL, stative=True),
    Verb("需要", "need needs needed needed needing", f"{THINGS} drink person", stative=True),
    Verb("想要", "want wants wanted wanted wanting", f"{THINGS} drink", stative=True),
    Verb("了解", "understand understands understood understood understanding", "field text person", stative=True),
    Verb("認識", "know knows knew known knowing", "person", stative=True),
    Verb("相信", "trust trusts trusted trusted trusting", "person", stative=True),
    Verb("尊重", "respect respects respected respected respecting", "person", stative=True),
    Verb("工作", "work works worked worked working"),
    Verb("睡覺", "sleep sleeps slept slept sleeping"),
    Verb("休息", "rest rests rested rested resting"),
    Verb("跑步", "run runs ran run running"),
    Verb("游泳", "swim swims swam swum swimming"),
    Verb("跳舞", "dance dances danced danced dancing"),
    Verb("哭", "cry cries cried cried crying"),
    Verb("笑", "laugh laughs laughed laughed laughing"),
)

CATENATIVES = (
    Verb("想", "want wants wanted wanted wanting", "", "to", True),
    Verb("想要", "want wants wanted wanted wanting", "", "to", True),
    Verb("喜歡", "like likes liked liked liking", "", "to", True),
    Verb("需要", "need needs needed needed needing", "", "to", True),
)

GO = Verb("去", "go goes went gone going")
GO_HOME = Verb("回家", "go goes went gone going", "", "home")
LIVE = Verb("住", "live lives lived lived living", stative=True)
HAVE = Verb("有", "have has had had having", stative=True)
PUT = Verb("放", "put puts put put putting")
RAIN = Verb("下雨", "rain rains rained rained raining")
SNOW = Verb("下雪", "snow snows snowed snowed snowing")

GIVING = (
    Verb("給", "give gives gave given giving"),
    Verb("送給", "give gives gave given giving"),
    Verb("賣給", "sell sells sold sold selling"),
    Verb("借給", "lend lends lent lent lending"),
    Verb("寄給", "send sends sent sent sending"),
)

HANDLED = ("吃", "賣", "修理", "找到")
"""Verbs that take the 把 construction without a complement, and the passive."""


_DAYS = {
    "past": {
        "昨天": "yesterday",
        "昨天晚上": "last night",
        "上個星期": "last week",
        "上個月": "last month",
        "去年": "last year",
    },
    "future": {
        "明天": "tomorrow",
        "明天早上": "tomorrow morning",
        "下個星期": "next week",
        "下個月": "next month",
        "明年": "next year",
    },
    "today": {"今天": "today"},
    "now": {"現在": "now"},
    "always": {"每天": "every day", "每個星期": "every week", "星期天": "on Sunday"},
}
TIMES = _DAYS | {
    "past": _DAYS["past"] | _DAYS["today"] | {"今天早上": "this morning"},
    "future": _DAYS["future"] | _DAYS["today"] | {"今天晚上": "tonight"},
    "yesterday": _DAYS["past"],
    "tomorrow": _DAYS["future"],
}


class Place(NamedTuple):
    zh: str
    en: str
    preposition: str = "in"


PLACES = (
    Place("圖書館", "the library"),
    Place("公園", "the park"),
    Place("辦公室", "the office"),
    Place("餐廳", "the restaurant"),
    Place("醫院", "the hospital"),
    Place("教室", "the classroom"),
    Place("廚房", "the kitchen"),
    Place("花園", "the garden"),
    Place("博物館", "the museum"),
    Place("電影院", "the cinema"),
    Place("咖啡館", "the cafe"),
    Place("超市", "the supermarket"),
    Place("商店", "the shop"),
    Place("學校", "school", "at"),
    Place("大學", "the university", "at"),
    Place("車站", "the station", "at"),
    Place("機場", "the airport", "at"),
    Place("北京", "Beijing"),
    Place("上海", "Shanghai"),
    Place("台北", "Taipei"),
    Place("東京", "Tokyo"),
    Place("倫敦", "London"),
    Place("巴黎", "Paris"),
)
CITIES = PLACES[-6:]
HOME = Place("家", "home", "at")


class Adjective(NamedTuple):
    zh: str
    en: str
    comparative: str
    kinds: str


OBJECTS = "text food thing animal film song"

ADJECTIVES = (
    Adjective("高", "tall", "taller", "person"),
    Adjective("忙", "busy", "busier", "person"),
    Adjective("累", "tired", "more tired", "person"),
    Adjective("聰明", "smart", "smarter", "person animal"),
    Adjective("年輕", "young", "younger", "person"),
    Adjective("高興", "happy", "happier", "person"),
    Adjective("有名", "famous", "more famous", "person film song"),
    Adjective("友善", "friendly", "friendlier", "person animal"),
    Adjective("勇敢", "brave", "braver", "person"),
    Adjective("有錢", "rich", "richer", "person"),
    Adjective("認真", "serious", "more serious", "person"),
    Adjective("可愛", "cute", "cuter", "person animal"),
    Adjective("漂亮", "beautiful", "more beautiful", "person thing animal song"),
    Adjective("有趣", "interesting", "more interesting", "person text film song field"),
    Adjective("重要", "important", "more important", "text field"),
    Adjective("有用", "useful", "more useful", "text thing field"),
    Adjective("難", "difficult", "more difficult", "text field"),
    Adjective("簡單", "simple", "simpler", "text field"),
    Adjective("無聊", "boring", "more boring", "text film field"),
    Adjective("好", "good", "better", OBJECTS),
    Adjective("大", "big", "bigger", "food thing animal"),
    Adjective("小", "small", "smaller", "food thing animal"),
    Adjective("新", "new", "newer", "text thing film song"),
    Adjective("舊", "old", "older", "text thing film song"),
    Adjective("貴", "expensive", "more expensive", "text food thing drink"),
    Adjective("便宜", "cheap", "cheaper", "text food thing drink"),
    Adjective("好吃", "delicious", "more delicious", "food"),
    Adjective("新鮮", "fresh", "fresher", "food"),
    Adjective("冷", "cold", "colder", "weather"),
    Adjective("熱", "hot", "hotter", "weather"),
    Adjective("暖和", "warm", "warmer", "weather"),
    Adjective("涼快", "cool", "cooler", "weather"),
)
COLOURS = {"紅色": "red", "藍色": "blue", "綠色": "green", "黑色": "black", "白色": "white"}
COLOURED = ("帽子", "裙子", "襯衫", "大衣", "雨傘", "杯子", "背包", "車")

OPENINGS = {
    "你好": "hello",
    "您好": "hello",
    "早安": "good morning",
    "早上好": "good morning",
    "午安": "good afternoon",
    "下午好": "good afternoon",
    "晚上好": "good evening",
    "晚安": "good night",
    "再見": "goodbye",
    "歡迎": "welcome",
    "謝謝": "thank you",
    "謝謝你": "thank you",
    "對不起": "sorry",
    "沒關係": "never mind",
    "不客氣": "you are welcome",
    "明天見": "see you tomorrow",
    "生日快樂": "happy birthday",
    "新年快樂": "happy new year",
}
ADDRESSED = NAMES | {"世界": "world", "大家": "everyone", "老師": "teacher", "朋友們": "friends", "同學們": "students"}

PHRASES = (
    ("how are you", "你好 嗎", "1 1 0", "?"),
    ("what is your name", "你 叫 什麼 名字", "2 1 0 3", "?"),
    ("who are you", "你 是 誰", "2 1 0", "?"),
    ("who is he", "他 是 誰", "2 1 0", "?"),
    ("who is she", "她 是 誰", "2 1 0", "?"),
    ("what is this", "這 是 什麼", "2 1 0", "?"),
    ("what is that", "那 是 什麼", "2 1 0", "?"),
    ("nice to meet you", "很 高興 認識 你", "1 2 2 3", "."),
    ("hello everyone", "大家 好", "1 0", "."),
    ("thank you very much", "非常 感謝", "1 1 0 0", "."),
    ("I am fine", "我 很 好", "0 1 2", "."),
    ("we are fine", "我們 很 好", "0 1 2", "."),
)
"""English, Chinese, the position of the Chinese word that each English word translates, and the final mark."""
